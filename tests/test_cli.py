"""The command line: a mistake ends with its text and exit code 2, ``--json`` with one document."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from command_line import Said
from patience import PATIENCE_SECONDS

from pkdray.data.bundled import bundled_datasets
from pkdray.errors import ConfigError
from pkdray.evaluate.evaluation import FORMAT
from pkdray.search.run import Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.shipped import shipped
from pkdray.steps import load_study
from pkdray.steps.wording import named

BAD = """
dataset: {path: mfeat, prevalent: [fou]}
trainin: {epochs: 3}
training: {epochs: 0, learning_rate: fast}
method: {name: pkdto}
search:
  space:
    training.learning_rate: {float: [0.1, 0.001]}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """An interrupted run below ``runs``: two trials complete, one pruned, one failed, two to go."""
    _, plan = load_study("mfeat_demo", ["search.trials=6"])
    made = Run.create(tmp_path / "runs" / "first", plan)
    ledger = made.ledger()
    for end in ("complete", "prune", "fail", "complete"):
        trial = ledger.ask(sampler_for(plan.config))
        suggest(plan.config.search.space, trial, fixed_values(plan.config))
        ledger.report(trial.number, 1, 0.4)
        if end == "complete":
            said = {"method": "kl", "epoch": 3, "epochs": 5, "seconds": 1.5, "teachers": {"joint": 0.7, "shape": 0.3}}
            ledger.complete(trial.number, 0.5 + 0.1 * trial.number, said)
        elif end == "prune":
            ledger.prune(trial.number)
        else:
            ledger.fail(trial.number, "The training loss became nan in epoch 2.")
    return made


def assert_mistake(said: Said, *parts: str) -> None:
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert said.err.startswith("Error: "), said.err
    for part in parts:
        assert part in said.err


def test_every_fault_of_a_yaml_is_listed_at_once_with_its_line(pkdray, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    said = pkdray("sweep", "bad.yaml")
    assert_mistake(said, "did you mean 'training'?", "training.epochs (line 4)", "'fast'", "did you mean 'pkdot'?")
    assert "search.space.training.learning_rate" in said.err
    assert said.err.count("\n  - ") == 5
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_no_yaml_says_where(pkdray, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("dataset: {path: mfeat\nmethod: [")
    assert_mistake(pkdray("teach", "bad.yaml"), "bad.yaml is not YAML at line 2")


@pytest.mark.parametrize("command", ["sweep", "teach", "embed"])
def test_an_unknown_search_space_is_answered_with_the_ready_ones(pkdray, command: str) -> None:
    assert_mistake(pkdray(command, "mfeat_dmeo"), "mfeat_dmeo", *shipped())


@pytest.mark.parametrize("command", ["resume", "show", "evaluate"])
def test_an_unknown_run_is_answered_with_those_there_are(pkdray, run: Run, command: str) -> None:
    assert_mistake(pkdray(command, "frist"), "'frist'", "Runs in runs: first.")


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("training.epochs", "no assignment"),
        ("training.epochs=many", "training.epochs (--set)"),
        ("training.epoch=5", "did you mean 'epochs'?"),
        ("dataset.prevalent=[smell]", "there is no modality 'smell' in mfeat; it has fou, fac"),
        ("dataset.path=nowhere", "nowhere"),
        ("method.top_k=500", "500"),
        ("search.metric=ccc", "choose from accuracy"),
        ("search.space.method.teachers={subset: [joint, unheard]}", "no teacher is called unheard; the pool has joint"),
        ("dataset.fold=2", "dataset.fold: is 2"),
    ],
)
def test_a_bad_set_is_named(pkdray, tmp_path: Path, assignment: str, part: str) -> None:
    assert_mistake(pkdray("sweep", "mfeat_pkdot", "--set", assignment), part)
    assert not (tmp_path / "runs").exists(), "nothing is made before everything is checked"


def test_more_anchors_than_a_batch_has_are_refused_in_the_space_too(pkdray) -> None:
    assert_mistake(
        pkdray("sweep", "mfeat_pkdot", "--set", "training.batch_size=40"),
        "method.top_k",
        "64",
        "a batch of 40 has at most 39 anchors",
    )


def test_a_sweep_into_an_existing_run_is_refused_and_told_how_to_go_on(pkdray, run: Run) -> None:
    said = pkdray("sweep", "mfeat_demo", "--name", "first")
    assert_mistake(said, "The run runs/first exists.", "pkdray resume runs/first")
    assert run.ledger().counts().complete == 2


def test_fewer_trials_than_are_planned_are_refused(pkdray, run: Run) -> None:
    assert_mistake(pkdray("resume", "first", "--trials", "3"), "6 are planned already")
    assert run.ledger().planned == 6


def test_a_damaged_ledger_is_told_and_hides_no_other_run(pkdray, run: Run) -> None:
    other = Run.create(run.path.parent / "second", run.plan(run.dataset()))
    (other.path / "study.db").write_bytes(b"damaged " * 1000)
    assert_mistake(pkdray("resume", "second"), "study.db is not a readable study")
    rows = json.loads(pkdray("runs", "--json").out)
    assert {row["run"]: row["state"] for row in rows} == {"first": "interrupted", "second": "damaged"}
    said = pkdray("runs")
    assert said.code == 0
    assert "damaged" in said.out


def test_a_mistake_is_a_document_where_json_is_asked_for(pkdray) -> None:
    said = pkdray("show", "nothing", "--json")
    assert said.code == 2
    document = json.loads(said.out)
    assert document["error"] == "RunError"
    assert "nothing" in document["what"]
    assert document["cure"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pkdray", "show", "nothing"]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    debug = subprocess.run(
        [*command, "--debug"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "RunError" in debug.stderr


@pytest.mark.parametrize(
    "arguments", [["sweep"], ["no-such-command"], ["resume", "x", "--trials", "0"], ["data", "import", "features"]]
)
def test_a_wrong_call_is_a_usage_error(pkdray, arguments: list[str]) -> None:
    said = pkdray(*arguments)
    assert said.code == 2
    assert "Usage:" in said.err
    assert "Traceback" not in said.err


def test_ctrl_c_while_teaching_says_how_to_go_on(pkdray, monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither Ray nor training is asked about here, and a Ctrl-C may come while either works.
    monkeypatch.setattr("pkdray.cluster.connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr("pkdray.steps.studies.placed", lambda plan, *_, **__: plan)
    monkeypatch.setattr("pkdray.training.workers.teach", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    said = pkdray("teach", "mfeat_demo")
    assert said.code == 130
    assert "teachers that are trained are kept" in said.err
    assert "Go on with the same command." in said.err
    assert "Traceback" not in said.err


def test_help_names_every_step_and_the_version_is_told(pkdray) -> None:
    from pkdray import __version__

    said = pkdray("--help")
    assert said.code == 0
    steps = ("demo", "data", "teach", "embed", "sweep", "resume", "evaluate", "export", "predict", "runs", "show")
    for step in (*steps, "compare"):
        assert f"\n  {step} " in said.out
        assert pkdray(step, "--help").code == 0
    assert pkdray("--version").out == f"pkdray {__version__}\n"


def test_a_dataset_is_described_for_people_and_for_scripts(pkdray) -> None:
    document = json.loads(pkdray("data", "inspect", "mfeat", "--json").out)
    assert document["name"] == "mfeat"
    assert pkdray("data", "inspect", "mfeat").out.startswith("name: mfeat\n")
    assert json.loads(pkdray("data", "list", "--json").out).keys() == bundled_datasets().keys()
    assert_mistake(pkdray("data", "inspect", "nowhere"), "nowhere")


def test_runs_are_listed_for_people_and_for_scripts(pkdray, run: Run) -> None:
    (row,) = json.loads(pkdray("runs", "--json").out)
    assert row == {
        "run": "first",
        "state": "interrupted",
        "dataset": "mfeat",
        "finished": 4,
        "planned": 6,
        "metric": "accuracy",
        "best": pytest.approx(0.8),
    }
    assert "interrupted" in pkdray("runs").out
    assert json.loads(pkdray("runs", "--runs-dir", "elsewhere", "--json").out) == []
    assert "No runs are in elsewhere" in pkdray("runs", "--runs-dir", "elsewhere").out


def test_a_run_is_shown_for_people_and_for_scripts(pkdray, run: Run) -> None:
    document = json.loads(pkdray("show", "first", "--json", "--top", "1").out)
    assert (document["planned"], document["finished"]) == (6, 4)
    assert (document["complete"], document["pruned"], document["failed"]) == (2, 1, 1)
    assert (document["best_trial"], document["best"]) == (3, pytest.approx(0.8))
    (best,) = document["trials"]
    assert (best["number"], best["method"], best["teachers"]) == (3, "kl", {"joint": 0.7, "shape": 0.3})
    assert "training.learning_rate" in best["proposed"]
    assert document["failures"] == {"2": "The training loss became nan in epoch 2."}
    assert document["evaluation"] is None

    said = pkdray("show", "runs/first")
    assert said.code == 0
    assert "4 of 6 trials finished (2 complete, 1 pruned, 1 failed)" in said.out
    assert "joint 70%, shape 30%" in said.out
    assert "Trial 2 failed: The training loss became nan" in said.out
    assert "pkdray resume runs/first" in said.out


def test_show_names_the_command_that_repeats_failed_trials_and_says_which_were(pkdray, run: Run) -> None:
    ledger = run.ledger()
    for number in (4, 5):
        ledger.ask(sampler_for(run.config))
        ledger.prune(number)
    assert "pkdray resume runs/first --retry-failed\n" in pkdray("show", "first").out
    ledger.retry_failed()
    ledger.ask(sampler_for(run.config))
    ledger.prune(6)
    shown = pkdray("show", "first").out
    assert "(2 complete, 4 pruned, 0 failed)" in shown
    assert "Trial 2 failed: The training loss became nan in epoch 2. (repeated as trial 6)" in shown
    assert "--retry-failed" not in shown
    assert json.loads(pkdray("show", "first", "--json").out)["retries"] == {"2": 6}


def prune_the_rest(run: Run) -> None:
    """Finish its two open trials without a result."""
    ledger = run.ledger()
    for _ in range(2):
        trial = ledger.ask(sampler_for(run.config))
        suggest(run.config.search.space, trial, fixed_values(run.config))
        ledger.prune(trial.number)


def test_show_says_when_an_evaluation_is_overtaken_or_of_an_older_pkdray(pkdray, run: Run) -> None:
    prune_the_rest(run)
    said = {
        "format": FORMAT,
        "trial": 3,
        "request": {"trial": 3},
        "comparisons": [{"method": "student", "against": "lower_bound", "sentence": "Distillation helped."}],
        "test_opened": {"at": "2026-01-02", "times": 1},
    }
    (run.path / "evaluation.json").write_text(json.dumps(said))
    assert json.loads(pkdray("show", "first", "--json").out)["overtaken"] is None
    shown = pkdray("show", "first").out
    assert "Distillation helped." in shown
    assert "pkdray evaluate" not in shown

    said["request"] = {"trial": 0}
    said["trial"] = 0
    (run.path / "evaluation.json").write_text(json.dumps(said))
    asked = {"trial": 0, "seeds": [3, 4], "folds": [0, 2], "top": 1, "against": ["kl", "pkd"]}
    opened = {"openings": [{"at": "2026-01-02", "request": asked}]}
    (run.path / "test_opened.json").write_text(json.dumps(opened))
    why = "The evaluation is of trial 0; since then trial 3 has become the best."
    assert json.loads(pkdray("show", "first", "--json").out)["overtaken"] == why
    shown = pkdray("show", "first").out
    assert shown.index(why) < shown.index("What it said of trial 0:") < shown.index("Distillation helped.")
    assert "pkdray evaluate runs/first --seeds 2 --folds 0,2 --against kl,pkd --reopen\n" in shown

    (run.path / "evaluation.json").write_text(json.dumps({**said, "format": FORMAT - 1}))
    older = json.loads(pkdray("show", "first", "--json").out)
    assert (older["evaluation"], older["evaluated_by_older"], older["overtaken"]) == (None, True, None)
    shown = pkdray("show", "first").out
    assert "An older pkdray evaluated it, whose numbers are not shown; evaluate it again." in shown
    assert "pkdray evaluate runs/first --seeds 2 --folds 0,2 --against kl,pkd --reopen\n" in shown


def test_show_hides_nothing_else_when_a_record_of_the_evaluation_is_damaged(pkdray, run: Run) -> None:
    prune_the_rest(run)
    for name in ("evaluation.json", "test_opened.json"):
        (run.path / name).write_text("{")
    said = pkdray("show", "first")
    assert said.code == 0
    assert "Best trials by validation accuracy" in said.out
    assert "pkdray evaluate runs/first\n" in said.out
    assert "evaluation.json is damaged." in said.err
    assert "test_opened.json is damaged." in said.err


def test_a_run_that_is_being_swept_cannot_be_resumed_or_evaluated_beside(pkdray, run: Run) -> None:
    with run.lock():
        assert json.loads(pkdray("show", "first", "--json").out)["state"] == "running"
        assert_mistake(pkdray("resume", "first"), "The run first is in use by process")
        assert_mistake(pkdray("evaluate", "first"), "The run first is in use by process")


@pytest.mark.parametrize("value", ["face", "face=", "=face.csv"])
def test_a_named_table_without_its_name_or_table_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="NAME=PATH"):
        named([value], "--modality")


def test_named_tables_are_told_apart() -> None:
    assert named(["face=a.csv", "voice=b=c.csv"], "INPUT") == {"face": "a.csv", "voice": "b=c.csv"}
    with pytest.raises(ConfigError, match="'face' twice"):
        named(["face=a.csv", "face=b.csv"], "INPUT")
