"""Export: graphs that answer as the student does, a card that tells the truth, a folder that is whole or absent."""

from __future__ import annotations

import json
import re
import shlex
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
from pkdray.diagnostics import NegativeTransfer
from pkdray.errors import CheckpointError, PkdrayError, RunError, StorageError
from pkdray.evaluate import EVALUATION as EVALUATION_FILE
from pkdray.evaluate import FORMAT
from pkdray.evaluate.opening import OPENED
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
PAIR = {"fold": None, "validation": {"accuracy": 0.5}, "test": {"accuracy": 0.3}}
EVALUATION: dict[str, Any] = {
    "format": FORMAT,
    "request": {"trial": 0},
    "trial": 0,
    "metric": "accuracy",
    "mode": "max",
    "confidence": 0.95,
    "seeds": [3, 4],
    "folds": [None],
    "test_opened": {"at": "2026-01-01T00:00:00+00:00", "times": 1},
    "methods": {
        "lower_bound": {
            "label": "lower bound",
            "what": "face alone",
            "pairs": [{**PAIR, "seed": 3}, {**PAIR, "seed": 4}],
            "values": [0.3, 0.32],
            "mean": 0.31,
            "std": 0.0125,
            "interval": [0.2, 0.4],
        },
        "student": {"label": "student", "what": "face, pkdot", "values": [0.4], "mean": 0.4, "std": None},
        "pkd": {"label": "pkd", "what": "face, pkd", "values": [0.35], "mean": 0.35, "std": None, "interval": None},
        "teacher": {
            "label": "upper bound",
            "what": "teacher joint",
            "values": [0.9],
            "mean": 0.9,
            "std": None,
            "interval": None,
        },
    },
    "comparisons": [
        {
            "method": "student",
            "against": "lower_bound",
            "pairs": 7,
            "difference": 0.1,
            "interval": [-0.1, 0.3],
            "effect_size": 0.8125,
            "wins": 5,
            "ties": 0,
            "tests": {"wilcoxon": {"p": 0.21, "p_holm": 0.42}, "bootstrap": {"p": 0.2, "p_holm": 0.4}},
            "verdict": "not enough evidence",
            "sentence": "Not enough evidence: +0.1000 accuracy over the lower bound..",
        },
        {
            "method": "student",
            "against": "pkd",
            "pairs": 1,
            "difference": -0.05,
            "interval": None,
            "effect_size": None,
            "wins": 0,
            "ties": 0,
            "tests": {"wilcoxon": {"p": None, "p_holm": None}, "bootstrap": {"p": None, "p_holm": None}},
            "verdict": "not enough evidence",
            "sentence": "Not enough evidence against pkd.",
        },
    ],
    "notes": ["All of it is over one test split."],
    "student": {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.4321}},
    "subgroups": {
        "class": [
            {"name": "calm", "samples": 5, "accuracy": 0.8},
            {"name": "joy", "samples": 7, "accuracy": 0.25},
            {"name": "fear", "samples": 1, "accuracy": None},
        ],
        "subject": [{"name": f"p{index:02d}", "samples": 3, "accuracy": index / 20} for index in range(20)],
    },
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
        ledger.complete(trial.number, 0.5, {"epochs": 3})
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
    # A name alone would be looked for in ./runs.
    assert f"`pkdray evaluate {run.path}` opens it" in card
    assert "pkdray predict 'my student' features.csv" in card
    monkeypatch.chdir(dest.parent)
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)  # noqa: S102  (what a reader of the card would paste)
        assert len(names.get("answers", names.get("probabilities"))) == 2


def section(card: str, title: str) -> str:
    """What stands below a heading of the card, up to the next one of its level."""
    found = re.split(rf"^## {title}$", card, flags=re.MULTILINE)[1]
    return re.split(r"^## ", found, flags=re.MULTILINE)[0]


@pytest.mark.usefixtures("quick")
def test_test_results_are_in_card_and_metrics(run: Run, tmp_path: Path):
    (run.path / "evaluation.json").write_text(json.dumps(EVALUATION), encoding="utf-8")
    dest = export_student(run, tmp_path / "student")
    assert json.loads((dest / "metrics.json").read_text(encoding="utf-8"))["test"] == {"accuracy": 0.4321}
    card = (dest / "README.md").read_text(encoding="utf-8")
    results = section(card, "Results")
    assert "| accuracy (the search's metric) | 0.5000 | 0.4321 |" in results
    assert "trained again with 2 seeds, beside its bounds" in results
    assert "| lower bound: no teacher | face alone | 0.3100 | 0.0125 | 0.2000 to 0.4000 | 2 |" in results
    assert "| pkd | face, pkd | 0.3500 | - | - | 1 |" in results
    assert "| upper bound: the teacher | teacher joint | 0.9000 | - | - | 1 |" in results
    assert "**Not enough evidence: +0.1000 accuracy over the lower bound..**" in results
    assert "- Not enough evidence against pkd." in results
    assert "| gain | 95 % interval | better in |" in results
    numbers = "+0.1000 | -0.1000 to +0.3000 | 5 of 7 | 0.42 | 0.81 | not enough evidence"
    assert f"| this configuration against lower bound | {numbers} |" in results
    assert "| this configuration against pkd | -0.0500 | - | 0 of 1 | - | - | not enough evidence |" in results
    assert "> - All of it is over one test split." in results
    assert "has not been opened" not in card
    limits = section(card, "Limits")
    assert "broken down by class and by subject, not by sex" in limits
    rows = run.dataset().rows("test")
    subjects = run.dataset().samples["subject_id"].iloc[rows].nunique()
    assert f"The test split is small: {len(rows)} samples of {subjects} subjects." in limits
    assert "opened 1 times" not in card


@pytest.mark.usefixtures("quick")
def test_the_card_names_the_worst_and_the_best_group(run: Run, tmp_path: Path):
    (run.path / "evaluation.json").write_text(json.dumps(EVALUATION), encoding="utf-8")
    results = section((export_student(run, tmp_path / "student") / "README.md").read_text(encoding="utf-8"), "Results")
    assert "By class, accuracy on test is worst for `joy` (0.2500, 7 samples) and best for `calm` (0.8000" in results
    assert "(1 group without a defined accuracy left out.)" in results
    assert "worst for `p00` (0.0000, 3 samples) and best for `p19` (0.9500, 3 samples)." in results
    assert "Of 20, the 6 worst and the 6 best:" in results
    shown = re.findall(r"^\| `(p\d\d)` \|", results, flags=re.MULTILINE)
    assert shown == [f"p{index:02d}" for index in [*range(6), *range(14, 20)]]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("old", "how"),
    [
        ({"trial": 0, "seeds": [0, 1], "comparison": {}}, " --reopen` evaluates it anew, on data that are no longer"),
        ({"format": 1}, " --reopen` evaluates it anew, on data that are no longer"),
        (EVALUATION | {"format": 2}, "` goes on with the request that it was opened for"),
    ],
)
def test_an_evaluation_of_an_older_format_is_no_evaluation_and_no_fault(
    run: Run, tmp_path: Path, old: dict[str, Any], how: str
):
    student_test = {"student": {"test": {"accuracy": 0.9}}}
    (run.path / "evaluation.json").write_text(json.dumps(old | student_test), encoding="utf-8")
    dest = export_student(run, tmp_path / "student")
    card = (dest / "README.md").read_text(encoding="utf-8")
    assert "**The test split was opened by an older pkdray, whose results this one does not read.**" in card
    assert f"`pkdray evaluate {run.path}{how}" in card
    assert "0.9000" not in card
    assert "test" not in json.loads((dest / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("left", [None, EVALUATION | {"format": 2}, EVALUATION | {"trial": 7, "request": {"trial": 7}}])
def test_how_often_the_test_split_was_opened_is_known_without_its_evaluation(run: Run, tmp_path: Path, left: Any):
    """The evaluation was killed, moved away or is of another student: what was seen stays seen."""
    opening = {"at": "2026-01-02T03:04:05+00:00", "request": {"trial": 0}}
    (run.path / OPENED).write_text(json.dumps({"openings": [opening, opening, opening]}), encoding="utf-8")
    if left is not None:
        (run.path / EVALUATION_FILE).write_text(json.dumps(left), encoding="utf-8")
    card = (export_student(run, tmp_path / "student") / "README.md").read_text(encoding="utf-8")
    assert "has not been opened" not in card
    assert "**The test split was opened " in section(card, "Results")
    assert "The test split has been opened 3 times" in section(card, "Limits")


@pytest.mark.usefixtures("quick")
def test_groups_whose_metric_is_undefined_are_no_breaking_down(run: Run, tmp_path: Path):
    groups = [{"name": name, "samples": 3, "ccc": value} for name, value in (("a", None), ("b", None), ("c", 0.5))]
    said = EVALUATION | {"subgroups": {"class": EVALUATION["subgroups"]["class"], "subject": groups}}
    (run.path / "evaluation.json").write_text(json.dumps(said), encoding="utf-8")
    card = (export_student(run, tmp_path / "student") / "README.md").read_text(encoding="utf-8")
    assert "broken down by class, not by sex" in section(card, "Limits")


@pytest.mark.usefixtures("quick")
def test_a_student_whose_own_test_split_was_not_asked_for_has_no_test_results(run: Run, tmp_path: Path):
    said = EVALUATION | {"student": {"validation": {"accuracy": 0.5}, "test": None}, "subgroups": {}}
    (run.path / "evaluation.json").write_text(json.dumps(said), encoding="utf-8")
    dest = export_student(run, tmp_path / "student")
    assert "test" not in json.loads((dest / "metrics.json").read_text(encoding="utf-8"))
    results = section((dest / "README.md").read_text(encoding="utf-8"), "Results")
    assert "| accuracy (the search's metric) | 0.5000 |" in results
    assert "### Between its bounds" in results


@pytest.mark.usefixtures("quick")
def test_cost_and_what_the_teachers_did_are_in_the_card(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def look(*said: Any) -> Any:
        return NegativeTransfer(*[pd.DataFrame()] * 3, 3, 0.5, pd.DataFrame(), f"The gate of trial {said[-1]} closed.")

    card = (export_student(run, tmp_path / "without") / "README.md").read_text(encoding="utf-8")
    cost = section(card, "Cost")
    # 5 -> 10, 10 -> 11, 11 -> 4, without a T-Net.
    assert f"| parameters | {60 + 121 + 48} |" in cost
    assert f"| multiply-accumulates of one sample | {50 + 110 + 44} |" in cost
    assert float(re.search(r"median \| ([0-9.e-]+) ms", cost)[1]) > 0
    # There is no pool beside this run, which is no reason not to export its student.
    assert "gate" not in card
    monkeypatch.setattr(student, "negative_transfer", look)
    card = (export_student(run, tmp_path / "with") / "README.md").read_text(encoding="utf-8")
    assert "The gate of trial 0 closed." in section(card, "How it was made")


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
    assert f"Continue it: pkdray resume {run.path}" in str(caught.value)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("end", "says"), [("prune", "pkdray resume {} --trials 4"), ("fail", "pkdray resume {} --retry-failed")]
)
def test_a_run_whose_trials_all_ended_in_vain_is_not_told_to_resume_what_is_not_open(
    tmp_path: Path, small_dataset: Callable[..., Any], plan: Callable[..., Any], end: str, says: str
):
    run = make_run(tmp_path / "my runs", small_dataset, plan, complete=False)
    ledger = run.ledger()
    for _ in range(2):
        number = ledger.ask(sampler_for(run.config)).number
        if end == "prune":
            ledger.prune(number)
        else:
            ledger.fail(number, "it diverged")
    with pytest.raises(RunError, match="No trial of study is complete") as caught:
        export_student(run, tmp_path / "student")
    assert says.format(shlex.quote(str(run.path))) in str(caught.value)


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

    older = model_card("student", info, metrics, evaluation={"format": FORMAT, "trial": 3})
    assert "opened for another student (trial 3)" in older
    bare = model_card("student", info, metrics, evaluation={"format": FORMAT, "trial": 4, "test_opened": {"times": 2}})
    assert "has been opened 2 times" in section(bare, "Limits")
    assert "Out of scope: " in section(bare, "Intended use")


def test_the_card_of_a_regression_names_its_targets(tmp_path: Path):
    info, _, metrics = read_bundle(make_bundle(tmp_path, "frames"))
    card = model_card("student", info, metrics)
    assert "predicts `valence`, `arousal` for every frame" in card
    assert "Output: `[N, 6, 2]`, the targets" in card
    assert "calibrated" not in card

    comparison = EVALUATION["comparisons"][0] | {"difference": -0.1, "interval": [-0.3, 0.1], "verdict": "hurt"}
    said = EVALUATION | {"trial": info.made_from["trial"], "metric": "mse", "mode": "min", "comparisons": [comparison]}
    results = section(model_card("student", info, metrics, evaluation=said), "Results")
    assert (
        "| this configuration against lower bound | 0.1000 higher | 0.3000 higher to 0.1000 lower | 5 of 7 |" in results
    )


def test_the_comparison_is_made_at_several_batch_sizes():
    assert set(graphs.BATCHES) >= {1, 7}
