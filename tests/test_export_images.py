"""Students that see films: their graphs take uint8, answer as the student does, and the card says how to use them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_bundles import films, make_filmed_bundle

import pkdray
from pkdray import steps
from pkdray.console import Console
from pkdray.export import graphs, model_card, write_graphs
from pkdray.training.bundles import read_bundle

SLOW = pytest.mark.slow
CASES = [
    pytest.param("vgg19_gru", (3, 33, 35, 3), False, True, marks=SLOW),
    pytest.param("vgg19_gru", (3, 33, 35, 3), True, False),
    pytest.param("r3d18", (8, 24, 26, 3), False, False),
    pytest.param("r3d18", (8, 24, 26, 3), True, True, marks=SLOW),
    pytest.param("r3d18_lstm", (2, 8, 24, 26, 3), True, False, marks=SLOW),
    pytest.param("r3d18_lstm", (2, 8, 24, 26, 3), False, True, marks=SLOW),
    pytest.param("resnet18", (3, 33, 35, 3), True, False),
    pytest.param("resnet18", (3, 33, 35, 3), False, True, marks=SLOW),
]


@pytest.mark.parametrize(("encoder", "shape", "per_frame", "tnet"), CASES)
def test_both_graphs_answer_as_the_student_does(
    tmp_path: Path, encoder: str, shape: Sequence[int], per_frame: bool, tnet: bool
) -> None:
    make_filmed_bundle(tmp_path, {"face": shape}, encoder=encoder, per_frame=per_frame, tnet=tnet)
    info, pipeline, _ = read_bundle(tmp_path)
    write_graphs(tmp_path, pipeline, info.architecture.shapes)
    predictor = pkdray.load_student(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape) == ("face", "tensor(uint8)", ["batch", *shape])
    program = torch.export.load(tmp_path / "model.pt2").module()
    for count in (1, 3):
        face = films(shape, count, seed=count)
        expected = predictor.predict_array(face)
        assert expected.shape == (count, *([shape[0]] if per_frame else []), 2)
        np.testing.assert_allclose(session.run(["targets"], {"face": face})[0], expected, rtol=1e-3, atol=1e-4)
        said = program({"face": torch.from_numpy(face)}).detach().numpy()
        np.testing.assert_allclose(said, expected, rtol=1e-3, atol=1e-4)


def test_large_films_are_compared_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_filmed_bundle(tmp_path, {"face": (3, 33, 35, 3)})
    info, pipeline, _ = read_bundle(tmp_path)
    sizes: list[int] = []

    def answer(inputs: dict[str, torch.Tensor]) -> np.ndarray:
        sizes.append(len(inputs["face"]))
        return pipeline(inputs["face"]).detach().numpy()

    with torch.no_grad():
        graphs._compare("model.onnx", answer, pipeline, info.architecture.shapes)
        monkeypatch.setattr(graphs, "_LARGE", 10_000)
        graphs._compare("model.onnx", answer, pipeline, info.architecture.shapes)
    assert sizes == [1, 7, 1, 2]


@pytest.mark.slow
def test_the_card_says_how_films_and_recordings_go_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my student"
    make_filmed_bundle(folder, {"face": (8, 33, 35, 3), "voice": (7, 4)}, recordings="affwild2")
    info, pipeline, metrics = read_bundle(folder)
    card = model_card("my student", info, metrics, images=pipeline.images, recordings=pipeline.recordings)
    assert "| `face` | `[N, 8, 33, 35, 3]` | uint8 | 8 pictures of 33 x 35 pixels |" in card
    assert "| `voice` | `[N, 7, 4]` | float32 | 7 frames of 4 numbers |" in card
    assert "pkdray predict 'my student' video.mp4 -o answers.csv --plot answers.png" in card
    assert "pkdray predict 'my student' face=face.npy voice=voice.npy -o answers.csv" in card
    assert "aligned by landmarks" in card
    write_graphs(folder, pipeline, info.architecture.shapes)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)  # noqa: S102  (what a reader of the card would paste)
        assert len(names.get("answers", names.get("targets"))) == 2


@pytest.mark.parametrize(
    ("shapes", "recordings", "asked"),
    [
        ({"face": (3, 33, 35, 3)}, "biovid", "video.mp4 -o answers.csv --plot answers.png"),
        ({"face": (3, 33, 35, 3), "emg": (7,)}, "biovid", "video.mp4 biosignals=signals.csv -o answers.csv --plot"),
        ({"face": (3, 33, 35, 3)}, None, "INPUT.csv -o answers.csv"),
    ],
)
def test_what_to_type_after_the_export_fits_the_student(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shapes: dict[str, Sequence[int]],
    recordings: str | None,
    asked: str,
) -> None:
    folder = make_filmed_bundle(tmp_path / "student", shapes, recordings=recordings)
    # Only the words after it are of interest here.
    monkeypatch.setattr("pkdray.search.run.find_run", lambda name, _: SimpleNamespace(name=name))
    monkeypatch.setattr("pkdray.export.export_student", lambda *_, **__: folder)
    steps.export("run", tmp_path, folder, Console(), overwrite=False)
    assert f"Next:\n  pkdray predict {folder} {asked}" in capsys.readouterr().out


def test_a_card_without_recordings_speaks_of_none(tmp_path: Path) -> None:
    info, pipeline, metrics = read_bundle(make_filmed_bundle(tmp_path, {"face": (3, 33, 35, 3)}))
    card = model_card("student", info, metrics, images=pipeline.images)
    assert "video.mp4" not in card
    assert "standardisation" not in card
    assert "whose `face` images were cut out exactly as" in card
