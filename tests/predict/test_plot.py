"""The picture of a time line: what is drawn is what was answered, and a gap is a gap."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image

from pkdray.predict.plot import COLOURS, write_plot

CLASSES = ("BL1", "PA2", "PA4")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: object, **about: object) -> None:
        figures.append(self)
        save(self, *arguments, **about)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def affect(count: int, gap: slice = slice(0, 0)) -> pd.DataFrame:
    times = np.arange(count) / 25
    table = pd.DataFrame({"time_s": times, "start_s": np.floor(times), "end_s": np.floor(times) + 1})
    table["valence"], table["arousal"] = np.sin(times), 0.5 * np.cos(times)
    table.loc[table.index[gap], ["valence", "arousal"]] = np.nan
    return table


def pain(count: int, gap: slice = slice(0, 0)) -> pd.DataFrame:
    odds = np.random.default_rng(3).random((count, 3)) + 0.1
    table = pd.DataFrame({"time_s": np.arange(count) + 1.5, "start_s": np.arange(count), "end_s": np.arange(count) + 3})
    table[[f"p_{name}" for name in CLASSES]] = odds / odds.sum(axis=1, keepdims=True)
    table.loc[table.index[gap], [f"p_{name}" for name in CLASSES]] = np.nan
    return table


def labels(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_targets_are_lines_between_minus_one_and_one(drawn: list[Figure], tmp_path: Path) -> None:
    table = affect(125, slice(50, 75))
    write_plot(tmp_path / "a.png", table, [], ["valence", "arousal"], title="pupil · talk_$1$.mp4")
    axes = drawn[0].axes[0]
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    for name, colour in zip(("valence", "arousal"), COLOURS, strict=False):
        np.testing.assert_array_equal(lines[name].get_xdata(), table["time_s"])
        np.testing.assert_array_equal(lines[name].get_ydata(), table[name])
        assert lines[name].get_color() == colour
    low, high = axes.get_ylim()
    assert -1.1 < low <= -1
    assert 1 <= high < 1.1
    assert axes.get_title(loc="left") == "pupil · talk_$1$.mp4"
    assert labels(drawn[0]) == ["valence", "arousal", "no face found"]
    (shade,) = [patch for patch in axes.patches if not isinstance(patch, StepPatch)]
    np.testing.assert_allclose(shade.get_x(), 49.5 / 25)
    np.testing.assert_allclose(shade.get_width(), 1.0)


def test_without_gaps_nothing_is_shaded(drawn: list[Figure], tmp_path: Path) -> None:
    write_plot(tmp_path / "a.png", affect(50), [], ["valence", "arousal"], title="pupil · talk.mp4")
    assert not drawn[0].axes[0].patches
    assert labels(drawn[0]) == ["valence", "arousal"]


def test_values_beyond_the_scale_are_not_cut_off(drawn: list[Figure], tmp_path: Path) -> None:
    table = affect(50)
    table.loc[7, "arousal"] = -1.4
    write_plot(tmp_path / "a.png", table, [], ["valence", "arousal"], title="t")
    assert drawn[0].axes[0].get_ylim()[0] < -1.4


def test_an_answer_between_two_gaps_is_a_dot(drawn: list[Figure], tmp_path: Path) -> None:
    table = affect(125, slice(50, 60))
    table.loc[55, ["valence", "arousal"]] = [0.25, 0.75]
    write_plot(tmp_path / "a.png", table, [], ["valence", "arousal"], title="t")
    dots = [line for line in drawn[0].axes[0].get_lines() if line.get_marker() == "o"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in dots] == [(2.2, 0.25), (2.2, 0.75)]


def test_probabilities_are_areas_that_add_up_to_one(drawn: list[Figure], tmp_path: Path) -> None:
    table = pain(20, slice(4, 9))
    write_plot(tmp_path / "a.svg", table, CLASSES, ["target"], title="t")
    axes = drawn[0].axes[0]
    areas = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    assert len(areas) == 3
    top, edges, bottom = areas[-1].get_data()
    known = ~table["p_PA4"].isna().to_numpy()
    np.testing.assert_allclose(top[known], 1.0)
    np.testing.assert_allclose((top - bottom)[known], table["p_PA4"][known])
    np.testing.assert_allclose(edges, np.arange(1, 22))
    assert labels(drawn[0]) == ["PA4", "PA2", "BL1", "no face found"]
    assert axes.get_ylim() == (0, 1)


def test_a_single_answer_is_drawn_over_its_sample(drawn: list[Figure], tmp_path: Path) -> None:
    write_plot(tmp_path / "a.png", pain(1), CLASSES, ["target"], title="t")
    assert drawn[0].axes[0].get_xlim() == (0, 3)


@pytest.mark.parametrize(("seconds", "label"), [(8, "time (s)"), (125, "time (minutes:seconds)")])
def test_long_recordings_count_in_minutes(drawn: list[Figure], tmp_path: Path, seconds: int, label: str) -> None:
    write_plot(tmp_path / "a.png", pain(seconds), CLASSES, ["target"], title="t")
    axes = drawn[0].axes[0]
    assert axes.get_xlabel() == label
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ("1:30" in ticks) == (seconds == 125)


@pytest.mark.parametrize(("suffix", "starts"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_each_format_is_written_whole(tmp_path: Path, suffix: str, starts: bytes) -> None:
    path = tmp_path / f"line{suffix}"
    write_plot(path, affect(50), [], ["valence", "arousal"], title="t")
    content = path.read_bytes()
    assert content.startswith(starts)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if suffix == ".png":
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert picture.shape[1] > 1500
        assert (picture == 255).all(axis=2).mean() > 0.5, "the ground is white"
