"""A time line of answers as a picture that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from pkdray.files import write_atomic

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito (2008): told apart by colour-blind readers too."""
_SIGNED = {"valence", "arousal", "dominance"}
"""Targets that lie in [-1, 1] by definition."""
_INK, _LINE, _FAINT, _GAP = "#333333", "#9A9A9A", "#D9D9D9", "#ECECEC"
_MARKED = 40
_DENSE = 1000
"""Answers up to which each gets a mark of its own, and above which lines are thin."""


def write_plot(path: Path, table: pd.DataFrame, classes: Sequence[str], targets: Sequence[str], *, title: str) -> None:
    """Draw the answers to a recording over time.

    Targets are lines, valence and arousal between -1 and 1; probabilities of classes are areas that add up to 1. Where
    no face was found, the ground is grey.

    Args:
        path: what to write, atomically; the suffix says the format: .png, .svg or .pdf.
        table: as `LoadedStudent.predict_recording` gives it.
        classes: the classes; empty for regression.
        targets: the targets.
        title: what stands above it.

    Raises:
        StorageError: the folder cannot be written.
    """
    columns = [f"p_{name}" for name in classes] or list(targets)
    names = list(classes) or columns
    figure = Figure(figsize=(11, 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    values, edges = table[columns].to_numpy(np.float64), _edges(table)
    handles = _areas(axes, edges, values, names) if classes else _lines(axes, table["time_s"].to_numpy(), values, names)
    gaps = np.isnan(values).any(axis=1)
    for first, last in _runs(gaps):
        axes.axvspan(edges[first], edges[last], color=_GAP, linewidth=0, zorder=0)
    if gaps.any():
        handles.append(Patch(facecolor=_GAP, edgecolor=_FAINT, label="no face found"))
    _dress(axes, float(table["start_s"].iloc[0]), float(table["end_s"].iloc[-1]), handles)
    axes.set_ylabel("probability" if classes else "prediction", fontsize=12, color=_INK)
    # A file may be called 'talk_$1$.mp4', which is no formula.
    axes.set_title(title, fontsize=14, color=_INK, loc="left", pad=12, parse_math=False)
    # Without its time of making, the same answers give the same file.
    about = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=160, metadata=about))


def _lines(axes: Axes, times: np.ndarray, values: np.ndarray, names: Sequence[str]) -> list[Artist]:
    """One line a target; a gap is a gap in the line, and an answer between two gaps a dot."""
    mark = "o" if len(times) <= _MARKED else None
    gaps = np.isnan(values).any(axis=1)
    alone = [first for first, last in _runs(~gaps) if last - first == 1]
    width = 1.8 if len(times) <= _DENSE else 1.2
    handles: list[Artist] = []
    for index, name in enumerate(names):
        # A mark at the end may stick out of the axes, for which the layout needs no room.
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "markersize": 5,
            "clip_on": False,
            "in_layout": False,
        }
        handles += axes.plot(times, values[:, index], linewidth=width, marker=mark, label=name, **style)
        axes.plot(times[alone], values[alone, index], linestyle="none", marker="o", **style)
    axes.axhline(0, color=_LINE, linewidth=0.9, zorder=1)
    if set(names) <= _SIGNED:
        most = max(1.0, float(np.nanmax(np.abs(values))))
        axes.set_ylim(-1.02 * most, 1.02 * most)
        axes.yaxis.set_major_locator(MultipleLocator(0.5 if most < 2 else 1.0))
    return handles


def _areas(axes: Axes, edges: np.ndarray, values: np.ndarray, names: Sequence[str]) -> list[Artist]:
    """Probabilities on top of each other, each holding from edge to edge of its answer."""
    tops = np.cumsum(values, axis=1)
    bottom = np.zeros(len(values))
    handles: list[Artist] = []
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        axes.stairs(tops[:, index], edges, baseline=bottom, fill=True, color=colour, alpha=0.75, linewidth=0)
        bottom = tops[:, index]
        handles.append(Patch(facecolor=colour, alpha=0.75, label=name))
    axes.set_ylim(0, 1)
    return handles[::-1]


def _dress(axes: Axes, start_s: float, end_s: float, handles: list[Artist]) -> None:
    axes.set_xlim(start_s, end_s)
    long = end_s - start_s >= 60
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 1.5, 2, 3, 6, 10] if long else [1, 2, 5, 10]))
    if long:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{int(second) // 60}:{int(second) % 60:02d}"))
    axes.set_xlabel("time (minutes:seconds)" if long else "time (s)", fontsize=12, color=_INK)
    axes.tick_params(labelsize=11, colors=_INK, length=0)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=11, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _edges(table: pd.DataFrame) -> np.ndarray:
    """Where each answer's stretch begins and ends: half way to its neighbours, or where its sample ends."""
    times = table["time_s"].to_numpy()
    middles = (times[1:] + times[:-1]) / 2
    if len(times) == 1:
        return np.array([table["start_s"].iloc[0], table["end_s"].iloc[0]])
    first, last = times[0] - (times[1] - times[0]) / 2, times[-1] + (times[-1] - times[-2]) / 2
    return np.concatenate([[max(first, table["start_s"].iloc[0])], middles, [min(last, table["end_s"].iloc[-1])]])


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """[first, last) of each run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    yield from zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)
