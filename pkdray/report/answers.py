"""What the best student answers beside what is true: confusion matrices, time lines, scatter; and for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from pkdray.data.dataset import Dataset
from pkdray.errors import DatasetError
from pkdray.losses import ccc
from pkdray.report.blocks import Block, Missing, Plot, Plots, Section, Table, Text
from pkdray.report.facts import SPLITS, Facts
from pkdray.report.theme import BLUE, INK, MUTED, ORANGE, legible, scale
from pkdray.report.thinning import drawn, evenly, thinned

_MOST_POINTS, _MOST_STEPS, _MOST_WRITTEN = 2000, 500, 25
_UNTESTED = "The student's own test split was none of those that the evaluation was asked for."
_TITLES = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Answers:
    """A split's answers in line with its labels, sequence by sequence and in the order of time.

    Args:
        places: R rows: ``sample_id``, ``subject_id``, ``sequence_id``.
        truth: class indices [R], or targets [R, n] with NaN where a frame has no label.
        answer: the same of the student.
        names: the classes, or the n targets.
    """

    places: pd.DataFrame
    truth: np.ndarray
    answer: np.ndarray
    names: list[str]


def section(facts: Facts) -> Section:
    """Answers on validation, and on test once that is open."""
    blocks: list[Block] = []
    confused: dict[str, Answers] = {}
    dataset = facts.dataset
    if dataset is None:
        blocks.append(Missing("Answers beside labels", facts.why("dataset")))
    elif facts.kept is None:
        blocks.append(Missing("Answers beside labels", "There is no best student yet: best/ has no predictions."))
    else:
        if facts.kept != facts.best:
            says = f"best/ holds the student of trial {facts.kept}, not of trial {facts.best}: these answers are its."
            blocks.append(Text(says, kind="note"))
        for split in SPLITS:
            if facts.why(f"predictions.{split}"):
                blocks.append(Missing(f"Answers on {_TITLES[split]}", facts.why(f"predictions.{split}")))
        for split, table in facts.predictions.items():
            try:
                found = aligned(table, dataset)
            except DatasetError as error:
                blocks.append(Missing(f"Answers on {_TITLES[split]}", str(error)))
                continue
            if dataset.info.task == "classification":
                confused[_TITLES[split]] = found
            else:
                blocks += _regression(found, split)
        if confused:
            blocks.append(_confusion(confused))
        if "test" not in facts.predictions and not facts.why("predictions.test"):
            blocks.append(_no_test(facts))
    blocks += _subgroups(facts)
    return Section("answers", "Answers", blocks)


def aligned(table: pd.DataFrame, dataset: Dataset) -> Answers:
    """Predictions as ``pkdray predict`` writes them, in line with the dataset's labels.

    Raises:
        DatasetError: the table lacks a column, knows samples that the dataset lacks, or more frames than it has.
    """
    samples = dataset.samples
    columns = ["prediction"] if dataset.info.task == "classification" else list(dataset.info.targets)
    lacking = sorted({"sample_id", *columns} - set(table.columns))
    if lacking:
        raise DatasetError(f"The predictions lack the column {', '.join(lacking)}.")
    rows = pd.Index(samples["sample_id"], dtype=object).get_indexer(pd.Index(table["sample_id"], dtype=object))
    if (rows < 0).any():
        stranger = table["sample_id"].iloc[int(np.flatnonzero(rows < 0)[0])]
        raise DatasetError(f"The predictions know a sample {stranger} that the dataset lacks.")
    frames: np.ndarray = table["frame"].to_numpy() if "frame" in table else np.zeros(len(table), dtype=int)
    info, targets = dataset.info, dataset.targets()
    framed = info.target_frames is not None
    if framed != ("frame" in table) or (framed and frames.max(initial=0) >= targets.shape[1]):
        raise DatasetError("The predictions have other frames than the dataset's targets.")
    truth = targets[rows, frames] if framed else targets[rows]
    if info.task == "classification":
        names = list(info.classes)
        answer: np.ndarray = pd.Index(names).get_indexer(pd.Index(table["prediction"].astype(str)))
    else:
        names = list(info.targets)
        answer = table[names].to_numpy(np.float64)
    places = samples.iloc[rows][["sample_id", "subject_id", "sequence_id"]].reset_index(drop=True)
    times: np.ndarray = samples["frame"].to_numpy()[rows] if "frame" in samples else rows
    order = np.lexsort((frames, times, pd.factorize(places["sequence_id"])[0]))
    return Answers(places.iloc[order].reset_index(drop=True), truth[order], answer[order], names)


def confusion(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was taken for each: counts [C, C], true classes in rows.

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    return np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes)


def confusion_figure(counts: np.ndarray, names: Sequence[str]) -> go.Figure:
    """A confusion matrix: counts, coloured by their share of the row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = legible([str(name) for name in names], 14)
    figure = go.Figure()
    figure.add_heatmap(
        z=(100 * shares).round(1).tolist(),
        x=shown,
        y=shown,
        zmin=0,
        zmax=100,
        colorscale=scale(),
        customdata=counts.tolist(),
        text=counts.tolist() if len(names) <= _MOST_WRITTEN else None,
        texttemplate="%{text}" if len(names) <= _MOST_WRITTEN else None,
        hovertemplate="%{y} taken for %{x}: %{customdata} (%{z:.1f} %)<extra></extra>",
        showscale=False,
    )
    # Names that lean reach beyond the side; how many are written does not change with the room.
    figure.update_xaxes(title="answer", type="category", showgrid=False, constrain="domain", automargin=True)
    figure.update_yaxes(
        title="truth", type="category", showgrid=False, autorange="reversed", scaleanchor="x", constrain="domain"
    )
    return figure


def agreement(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """The concordance correlation of each target over the rows that have a label; NaN with fewer than two.

    Args:
        truth: [R, n], NaN where there is no label.
        answer: [R, n].
    """
    kept = ~np.isnan(truth).any(axis=1)
    if kept.sum() < 2:
        return np.full(truth.shape[1], np.nan)
    return ccc(torch.from_numpy(answer[kept]).double(), torch.from_numpy(truth[kept]).double()).numpy()


def typical_sequences(found: Answers) -> list[tuple[str, str, float]]:
    """The sequences that the student follows best, middling and worst, by their mean CCC; a single one is the "only".

    Returns:
        (word, sequence_id, CCC); fewer where there are fewer sequences with two labelled rows, none without any.
    """
    scores = []
    for name, rows in found.places.groupby("sequence_id", sort=False).indices.items():
        score = float(np.mean(agreement(found.truth[rows], found.answer[rows])))
        if not np.isnan(score):
            scores.append((score, str(name)))
    scores.sort(reverse=True)
    if not scores:
        return []
    if len(scores) == 1:
        return [("only", scores[0][1], scores[0][0])]
    chosen = {0: "best", len(scores) // 2: "middling", len(scores) - 1: "worst"}
    return [(word, scores[index][1], scores[index][0]) for index, word in sorted(chosen.items())]


def time_line(truth: np.ndarray, answer: np.ndarray) -> go.Figure:
    """One target of one sequence over time: labels and answers; a gap where there is no label.

    Args:
        truth: [R].
        answer: [R].
    """
    kept = evenly(len(truth), _MOST_STEPS)
    figure = go.Figure()
    figure.add_scatter(
        x=kept.tolist(),
        y=[None if np.isnan(one) else float(one) for one in truth[kept]],
        mode="lines" if len(kept) > 60 else "lines+markers",
        name="truth",
        line={"color": INK, "width": 1.8},
        marker={"size": 5},
        connectgaps=False,
    )
    figure.add_scatter(
        x=kept.tolist(),
        y=answer[kept].astype(float).tolist(),
        mode="lines" if len(kept) > 60 else "lines+markers",
        name="answer",
        line={"color": BLUE, "width": 1.8, "dash": "dash"},
        marker={"size": 5, "symbol": "diamond"},
    )
    figure.update_xaxes(title="step of the sequence")
    return figure


def scatter(truth: np.ndarray, answer: np.ndarray) -> go.Figure:
    """One target: answers over labels, with the line on which both are the same.

    Args:
        truth: [R], without NaN.
        answer: [R].
    """
    figure = go.Figure()
    ends = [float(min(truth.min(), answer.min())), float(max(truth.max(), answer.max()))]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": ORANGE, "dash": "dot"}, hoverinfo="skip", showlegend=False
    )
    figure.add_scatter(
        x=truth.astype(float).round(4).tolist(),
        y=answer.astype(float).round(4).tolist(),
        mode="markers",
        marker={"color": BLUE, "size": 5, "opacity": 0.5},
        hovertemplate="truth %{x:.3f}, answer %{y:.3f}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title="truth", zeroline=True, zerolinecolor=MUTED)
    figure.update_yaxes(title="answer", zeroline=True, zerolinecolor=MUTED)
    return figure


def _confusion(found: dict[str, Answers]) -> Block:
    plots, said = [], []
    for split, answers in found.items():
        counts = confusion(answers.truth, answers.answer, len(answers.names))
        right, total = int(np.trace(counts)), int(counts.sum())
        said.append(f"{right:,} of {total:,} ({100 * right / max(1, total):.1f} %) on {split}")
        height = min(720, 170 + 30 * len(answers.names))
        plots.append(Plot(confusion_figure(counts, answers.names), split, height=height))
    says = (
        f"Right answers lie on the diagonal: {' and '.join(said)}. Strong cells beside it are classes that the student "
        "takes for each other; colour is the share of a row."
    )
    return Plots("Confusion matrices", says, plots, least=390)


def _regression(found: Answers, split: str) -> list[Block]:
    title = f"Answers over time on {_TITLES[split]}"
    blocks: list[Block] = []
    rows_of = found.places.groupby("sequence_id", sort=False).indices
    plots = [
        Plot(time_line(found.truth[rows_of[name], index], found.answer[rows_of[name], index]),
             f"{target} · {word} sequence {name} (CCC {score:.2f})", height=270)
        for word, name, score in typical_sequences(found)
        for index, target in enumerate(found.names)
    ]  # fmt: skip
    if plots:
        says = (
            "Labels as a solid line, answers dashed, for the sequences that the student follows best, middling and "
            "worst by mean CCC: look for answers that come late, stay flat or sit too high. Gaps have no label."
        )
        blocks.append(Plots(title, says, plots, least=340))
    else:
        blocks.append(Missing(title, "No sequence has two labelled steps: there is no time to draw over."))
    labelled = np.flatnonzero(~np.isnan(found.truth).any(axis=1))
    if not len(labelled):
        return [*blocks, Missing(f"Answers over labels on {_TITLES[split]}", "No step of this split has a label.")]
    kept = labelled[drawn(len(labelled), _MOST_POINTS)]
    scores = agreement(found.truth, found.answer)
    plots = [
        Plot(scatter(found.truth[kept, index], found.answer[kept, index]), f"{target} (CCC {scores[index]:.3f})", 340)
        for index, target in enumerate(found.names)
    ]
    unlabelled = len(found.truth) - len(labelled)
    says = (
        "On the dotted line the answer is the truth; a flatter cloud than the line is a student that plays safe."
        + thinned("labelled steps", len(kept), len(labelled))
        + (f" {unlabelled:,} steps without a label are left out." if unlabelled else "")
    )
    return [*blocks, Plots(f"Answers over labels on {_TITLES[split]}", says, plots, least=320)]


def _no_test(facts: Facts) -> Missing:
    """Why there are no answers on test, which only an evaluation writes."""
    if facts.overtaken is not None:
        why = f"{facts.overtaken} {facts.opened}"
        return Missing("Answers on test", why, facts.command("evaluate", *facts.as_then))
    if facts.evaluation is not None and _untested(facts.evaluation):
        return Missing("Answers on test", _UNTESTED)
    if facts.evaluation is not None:
        # They go when best/ is made anew, and come back only with another opening.
        return Missing("Answers on test", f"{facts.opened} Its answers are not in best/ any more.")
    return Missing("Answers on test", facts.opened, facts.command("evaluate", *facts.as_then))


def _subgroups(facts: Facts) -> list[Block]:
    if facts.evaluation is None:
        return [Missing("Subgroups", "They come with the evaluation on the test split.")]
    metric, trial = facts.evaluation["metric"], facts.evaluation["trial"]
    blocks: list[Block] = []
    for kind, groups in (facts.evaluation.get("subgroups") or {}).items():
        if groups:
            others = [key for key in groups[0] if key not in ("name", "samples")]
            rows = [[group["name"], group["samples"], *(group.get(key) for key in others)] for group in groups]
            says = f"Test {metric} of the student of trial {trial}; groups of few samples say little."
            if facts.overtaken is not None:
                says += f" {facts.overtaken}"
            blocks.append(Table(f"By {kind}", says, [kind, "samples", *others], rows))
    none = _UNTESTED if _untested(facts.evaluation) else "The evaluation found no groups to tell apart."
    return blocks or [Missing("Subgroups", none)]


def _untested(evaluation: Mapping[str, Any]) -> bool:
    return (evaluation.get("student") or {}).get("test") is None
