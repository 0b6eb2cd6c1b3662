"""Export: graphs that answer as the student does, a card that tells the truth, a folder that is whole or absent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from small_bundles import features, make_bundle

import pkdray
from pkdray.errors import CheckpointError, PkdrayError, RunError, StorageError
from pkdray.export import export_student, graphs, model_card, student, write_graphs
from pkdray.files import checksum
from pkdray.search.run import Run, sampler_for
from pkdray.search.trial import BEST
from pkdray.training.bundles import read_bundle
from pkdray.training.checkpoints import save_tensors
from pkdray.training.students import fresh_student

FILES = [
    "README.md",
    "config.yaml",
    "metrics.json",
    "model.onnx",
    "model.pt2",
    "model.safetensors",
    "preprocessing.yaml",
]
EVALUATION: dict[str, Any] = {
    "trial": 0,
    "metric": "accuracy",
    "mode": "max",
    "seeds": [3, 4],
    "test_opened": {"at": "2026-01-01T00:00:00+00:00", "times": 1},
    "student": {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.4321}},
    "methods": {
        "lower_bound": {"what": "face alone", "values": [0.3, 0.32], "mean": 0.31, "std": 0.01, "interval": [0.2, 0.4]},
        "teacher": {"what": "teacher joint", "values": [0.9], "mean": 0.9, "std": None, "interval": None},
    },
    "comparison": {"difference": 0.1, "interval": [-0.1, 0.3], "p_value": 0.2, "verdict": "not enough evidence"},
}


@pytest.fixture(params=["one", "two", pytest.param("frames", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, make_bundle(tmp_path / "student", request.param)


def test_both_graphs_answer_as_the_student_does(bundle: tuple[str, Path], capfd: pytest.CaptureFixture[str]):
    kind, folder = bundle
    info, pipeline, _ = read_bundle(folder)
    write_graphs(folder, pipeline, info.architecture.shapes, {"classes": info.classes})
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")

    predictor = pkdray.load_student(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    output = "targets" if kind == "frames" else "probabilities"
    assert {value.name: value.shape for value in session.get_inputs()} == {
        name: ["batch", *shape] for name, shape in info.architecture.shapes.items()
    }
    assert [value.name for value in session.get_outputs()] == [output]
    program = torch.export.load(folder / "model.pt2").module()
    for count in (1, 2, 23):
        given = features(kind, count, seed=count)
        expected = predictor.predict_array(given)
        np.testing.assert_allclose(session.run([output], given)[0], expected, rtol=1e-4, atol=1e-5)
        # The modalities are known by name, not by their order.
        tensors = {name: torch.from_numpy(given[name]) for name in reversed(given)}
        np.testing.assert_allclose(program(tensors).detach().numpy(), expected, rtol=1e-4, atol=1e-5)

    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model)
    assert json.loads(model.metadata_props[0].value) == {"classes": info.classes}
    if kind == "one":
        code = (
            "import sys, torch; sys.modules['pkdray'] = None\n"
            "print(list(torch.export.load(sys.argv[1]).module()({'face': torch.zeros(3, 5)}).shape))"
        )
        command = [sys.executable, "-c", code, str(folder / "model.pt2")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.stdout.strip() == "[3, 3]", done.stderr
    for name in ("model.onnx", "model.pt2"):
        assert b".py" not in (folder / name).read_bytes(), "the graph names files of the machine that made it"
    assert sorted(path.name for path in folder.iterdir()) == [name for name in FILES if name != "README.md"]


def test_a_graph_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = make_bundle(tmp_path, "one")
    info, pipeline, _ = read_bundle(folder)
    convert = torch.onnx.export

    def spoil(program: torch.export.ExportedProgram, **options: Any) -> Any:
        name = next(name for name in program.state_dict if name.endswith("head.bias"))
        bias = program.state_dict[name] + torch.tensor([0.1, 0.0, 0.0])
        program.state_dict[name] = torch.nn.Parameter(bias, requires_grad=False)
        return convert(program, **options)

    monkeypatch.setattr(torch.onnx, "export", spoil)
    with pytest.raises(PkdrayError, match=r"model.onnx does not answer as the student does: on 1 random samples"):
        write_graphs(folder, pipeline, info.architecture.shapes)
    assert not list(folder.glob("model.onnx*"))
    assert not list(folder.glob("*.pt2"))


def test_an_impossible_conversion_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = make_bundle(tmp_path, "one")
    info, pipeline, _ = read_bundle(folder)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("\nno operator for aten::frobnicate\nmore")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(PkdrayError, match=r"as ONNX \(RuntimeError: no operator for aten::frobnicate\)"):
        write_graphs(folder, pipeline, info.architecture.shapes)
    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(PkdrayError, match=r"exported as torch\.export"):
        write_graphs(folder, pipeline, info.architecture.shapes)
    assert not list(folder.glob("model.onnx*"))
    assert not list(folder.glob("*.pt2"))


def make_run(
    tmp_path: Path, small_dataset: Callable[..., Any], plan: Callable[..., Any], *, complete: bool = True
) -> Run:
    """A run of one trial with an untrained student, as a killed sweep leaves it: no best/ yet."""
    dataset = small_dataset("classification", "vectors")
    made = plan(dataset, {"dataset.path": str(dataset.path), "student.tnet.training": "none", "search.trials": 2})
    run = Run.create(tmp_path / "runs" / "study", made)
    if complete:
        ledger = run.ledger()
        trial = ledger.ask(sampler_for(made.config))
        torch.manual_seed(1)
        network = fresh_student(made, made.config)
        save_tensors(run.trial(0) / BEST, network.state_dict(), {"best": {"epoch": 2, "best": 0.5, "accuracy": 0.5}})
        ledger.complete(trial.number, 0.5, {})
    return run


@pytest.fixture
def run(tmp_path: Path, small_dataset: Callable[..., Any], plan: Callable[..., Any]) -> Run:
    return make_run(tmp_path, small_dataset, plan)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are not what is tested here, and take seconds."""

    def write(folder: Path, *_: Any) -> None:
        (folder / "model.onnx").write_bytes(b"onnx")
        (folder / "model.pt2").write_bytes(b"torch")

    monkeypatch.setattr(student, "write_graphs", write)


def test_an_export_stands_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    features_of = run.dataset()
    rows = features_of.rows("val")
    face = features_of.features("face")[rows]
    dest = tmp_path / "home" / "my student"
    assert export_student(run, dest) == dest
    assert sorted(path.name for path in dest.iterdir()) == FILES
    assert [path.name for path in dest.parent.iterdir()] == ["my student"]
    expected = pd.read_parquet(run.best / "predictions.val.parquet")
    shutil.rmtree(run.path)
    shutil.rmtree(features_of.path)

    loaded = pkdray.load_student(dest)
    for name, said in loaded.info.checksums.items():
        assert checksum(dest / name) == said
    assert set(loaded.info.checksums) == {"model.safetensors", "preprocessing.yaml", "model.onnx", "model.pt2"}
    answers = loaded.predict(face)
    columns = [name for name in expected.columns if name.startswith("p_")]
    np.testing.assert_allclose(answers[columns].to_numpy(), expected[columns].to_numpy(), rtol=0, atol=1e-6)
    assert answers["prediction"].tolist() == expected["prediction"].tolist()
    assert "test" not in loaded.metrics

    card = (dest / "README.md").read_text(encoding="utf-8")
    assert "has not been opened" in card
    assert "pkdray evaluate study" in card
    assert "pkdray predict 'my student' features.csv" in card
    monkeypatch.chdir(dest.parent)
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)  # noqa: S102  (what a reader of the card would paste)
        assert len(names.get("answers", names.get("probabilities"))) == 2


@pytest.mark.usefixtures("quick")
def test_test_results_are_in_card_and_metrics(run: Run, tmp_path: Path):
    (run.path / "evaluation.json").write_text(json.dumps(EVALUATION), encoding="utf-8")
    dest = export_student(run, tmp_path / "student")
    assert json.loads((dest / "metrics.json").read_text(encoding="utf-8"))["test"] == {"accuracy": 0.4321}
    card = (dest / "README.md").read_text(encoding="utf-8")
    assert "| accuracy (the search's metric) | 0.5000 | 0.4321 |" in card
    assert "| upper bound: the teacher | teacher joint | 0.9000 | - | 1 |" in card
    assert "There is not enough evidence" in card
    assert "has not been opened" not in card


@pytest.mark.usefixtures("quick")
def test_only_an_earlier_export_is_replaced(run: Run, tmp_path: Path):
    dest = tmp_path / "student"
    dest.mkdir()
    export_student(run, dest)
    with pytest.raises(RunError, match="holds a student already") as caught:
        export_student(run, dest)
    assert "--overwrite" in str(caught.value)
    (dest / "model.onnx").write_bytes(b"older")
    export_student(run, dest, overwrite=True)
    assert (dest / "model.onnx").read_bytes() == b"onnx"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    (dest / "answers.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"holds answers\.csv beside the student, which would be lost"):
        export_student(run, dest, overwrite=True)
    assert (dest / "answers.csv").read_text(encoding="utf-8") == "mine"


def test_other_destinations_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for dest, says in (
        (tmp_path / "notes", r"is not empty and is no student \(it holds diary.txt\)"),
        (tmp_path / "file", "is a file"),
        (Path(), "is the folder that you are in"),
        (run.best, "belongs to the run study"),
        (run.path, "belongs to the run study"),
    ):
        with pytest.raises(RunError, match=says):
            export_student(run, dest, overwrite=True)
    assert (tmp_path / "notes" / "diary.txt").exists()


def test_a_run_without_a_complete_trial_says_how_to_go_on(
    tmp_path: Path, small_dataset: Callable[..., Any], plan: Callable[..., Any]
):
    run = make_run(tmp_path, small_dataset, plan, complete=False)
    with pytest.raises(RunError, match=r"No trial of study is complete \(0 of 2 are finished") as caught:
        export_student(run, tmp_path / "student")
    assert f"pkdray resume {run.path}" in str(caught.value)
    assert not (tmp_path / "student").exists()


def test_a_failed_export_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise PkdrayError("no graph")

    monkeypatch.setattr(student, "write_graphs", refuse)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(PkdrayError, match="no graph"):
        export_student(run, tmp_path / "student")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.usefixtures("quick")
def test_a_replacement_that_fails_keeps_the_old(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dest = export_student(run, tmp_path / "student")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StorageError, match="cannot be put in place: Device or resource busy"):
        export_student(run, dest, overwrite=True)
    assert sorted(path.name for path in dest.iterdir()) == FILES


@pytest.mark.usefixtures("quick")
def test_a_damaged_best_student_is_refused(run: Run, tmp_path: Path):
    export_student(run, tmp_path / "first")
    path = run.best / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or was altered"):
        export_student(run, tmp_path / "second")
    (run.best / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"metrics.json is damaged"):
        export_student(run, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_card_tells_what_is_known(tmp_path: Path):
    info, _, metrics = read_bundle(make_bundle(tmp_path, "two"))
    card = model_card("student", info, metrics)
    assert "| `heart.rate` | `[N, 4, 3]` | float32 | 4 frames of 3 numbers |" in card
    assert "`calm`, `joy`, `pain`, in this order" in card
    assert "pkdray predict student face=face.csv heart.rate=heart.rate.csv -o answers.csv" in card
    assert "| accuracy (the search's metric) | 0.6250 |" in card
    assert "It could not be opened" in card
    assert "None" not in card

    older = model_card("student", info, metrics, evaluation={"trial": 3})
    assert "opened for another student (trial 3)" in older
    bare = model_card("student", info, metrics, evaluation={"trial": 4, "test_opened": {"times": 2}})
    assert "has been opened 2 times" in bare


def test_the_card_of_a_regression_names_its_targets(tmp_path: Path):
    info, _, metrics = read_bundle(make_bundle(tmp_path, "frames"))
    card = model_card("student", info, metrics)
    assert "predicts `valence`, `arousal` for every frame" in card
    assert "Output: `[N, 6, 2]`, the targets" in card
    assert "calibrated" not in card


def test_the_comparison_is_made_at_several_batch_sizes():
    assert set(graphs.BATCHES) >= {1, 7}
