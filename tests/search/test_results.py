"""What a sweep leaves beside its ledger: the table of trials, and the best student as a folder."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pkdray.errors import RunError
from pkdray.search.ledger import Ledger
from pkdray.search.results import trial_overrides, write_best, write_predictions, write_results
from pkdray.search.run import Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.search.sweep import study_arrays
from pkdray.search.trial import BEST, run_trial
from pkdray.training.bundles import read_bundle
from pkdray.training.checkpoints import load_tensors

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def copied(swept, tmp_path: Path) -> Run:
    """A copy of the finished run, to be damaged or changed."""
    shutil.copytree(swept.run.path, tmp_path / "digits")
    return Run(tmp_path / "digits")


def test_the_table_says_of_every_trial_what_it_was_and_what_became_of_it(swept) -> None:
    table = pd.read_parquet(swept.run.path / "trials.parquet").set_index("number")
    trials = swept.run.ledger().trials()
    assert table.index.tolist() == [trial.number for trial in trials]
    for trial in trials:
        row = table.loc[trial.number]
        assert row["state"] == trial.state.name.lower()
        assert row["value"] == trial.value
        assert row["parameter.training.learning_rate"] == trial.params["training.learning_rate"]
        assert row["parameter.method.name"] == trial.params["method.name"]
        if trial.state.name == "COMPLETE":
            assert 1 <= row["best_epoch"] <= row["epochs"] <= 9
        else:
            assert row["epochs"] == max(trial.intermediate_values)
        assert (row["node"], row["device"]) == (platform.node(), "cpu"), "pruned ones too"
        assert row["seconds"] > 0
        drawn = trial_overrides(swept.run, swept.run.ledger(), trial.number)
        config = yaml.safe_load((swept.run.trial(trial.number) / "config.yaml").read_text())
        assert drawn["training.learning_rate"] == config["training"]["learning_rate"]
        assert (
            config["method"].items()
            >= {
                path.removeprefix("method."): value for path, value in drawn.items() if path.startswith("method.")
            }.items()
        ), "what is read back from the ledger is what was trained"


def test_the_best_student_is_that_of_the_best_trial(swept) -> None:
    best = swept.run.ledger().best()
    assert best is not None
    metrics = json.loads((swept.run.best / "metrics.json").read_text())
    assert metrics["trial"] == best.number
    assert metrics["validation"]["accuracy"] == best.value
    info, pipeline, _ = read_bundle(swept.run.best)
    assert info.made_from["trial"] == best.number
    assert info.made_from["dataset_fingerprint"] == swept.dataset.fingerprint
    trained = load_tensors(swept.run.trial(best.number) / BEST)[0]
    kept = pipeline.student.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in trained.items())


def test_its_predictions_are_what_its_weights_say_of_raw_features(swept) -> None:
    info, pipeline, metrics = read_bundle(swept.run.best)
    table = pd.read_parquet(swept.run.best / "predictions.val.parquet")
    rows = swept.dataset.rows("val")
    assert table["sample_id"].tolist() == swept.dataset.samples["sample_id"].iloc[rows].tolist()
    with torch.no_grad():
        said = pipeline(torch.from_numpy(np.array(swept.dataset.features("fou")[rows]))).numpy()
    np.testing.assert_allclose(table[[f"p_{name}" for name in info.classes]].to_numpy(), said, atol=1e-5)
    right = [info.classes[index] for index in swept.dataset.targets()[rows]] == table["prediction"]
    assert right.mean() == pytest.approx(metrics["validation"]["accuracy"])


def test_a_trial_that_lost_its_weights_is_named(swept, copied: Run) -> None:
    best = copied.ledger().best()
    assert best is not None
    shutil.rmtree(copied.best)
    (copied.trial(best.number) / BEST).unlink()
    with pytest.raises(RunError, match=rf"Trial {best.number} of digits has lost its weights"):
        write_results(copied, swept.plan, swept.dataset, copied.ledger())
    assert not copied.best.exists()


def one_more(swept, run: Run, ledger: Ledger, value: float | None = None) -> int:
    """Another complete trial, with its files; ``value`` in place of the one that it reached."""
    trial = ledger.ask(sampler_for(run.config))
    arrays = study_arrays(swept.plan, swept.dataset, swept.pool)
    overrides = suggest(run.config.search.space, trial, fixed_values(run.config))
    summary = run_trial(swept.plan, overrides, arrays, run.trial(trial.number))
    ledger.complete(trial.number, summary["value"] if value is None else value, summary)
    return trial.number


def test_a_new_best_replaces_the_old_one_whole(swept, copied: Run) -> None:
    ledger = copied.ledger()
    number = one_more(swept, copied, ledger)
    write_predictions(copied.best, swept.plan, swept.dataset, read_bundle(copied.best)[1].student, "test")
    (copied.path / ".best").mkdir()
    (copied.path / ".best" / "half.bin").write_text("left by a killed process")
    write_best(copied, swept.plan, swept.dataset, number)
    assert read_bundle(copied.best)[0].made_from["trial"] == number == 7
    names = {path.name for path in copied.best.iterdir()}
    assert "predictions.val.parquet" in names
    assert not names & {"predictions.test.parquet", "half.bin"}, "nothing of another trial is left in it"
    assert not (copied.path / ".best").exists()


def test_a_best_student_that_is_up_to_date_is_left_as_it_is(swept, copied: Run) -> None:
    (copied.best / "predictions.test.parquet").write_text("kept")
    write_results(copied, swept.plan, swept.dataset, copied.ledger())
    assert (copied.best / "predictions.test.parquet").read_text() == "kept"


def test_a_student_that_an_evaluation_chose_stays_until_another_trial_leads(swept, copied: Run) -> None:
    """`evaluate --top` may choose the second best; a resume that finds nothing better must not undo that."""
    ledger = copied.ledger()
    best = ledger.best()
    # ASHA may have left one complete trial, so the second best is trained here.
    second = one_more(swept, copied, ledger, value=0.0)
    assert ledger.best().number == best.number != second
    write_best(copied, swept.plan, swept.dataset, second)
    (copied.best / "predictions.test.parquet").write_text("kept")
    write_results(copied, swept.plan, swept.dataset, ledger)
    assert read_bundle(copied.best)[0].made_from["trial"] == second
    assert (copied.best / "predictions.test.parquet").read_text() == "kept"
    metrics = copied.best / "metrics.json"
    said = json.loads(metrics.read_text())
    assert said["best_of_search"] == best.number
    # Chosen when another trial led, and once more now.
    metrics.write_text(json.dumps({**said, "best_of_search": second}))
    write_best(copied, swept.plan, swept.dataset, second)
    write_results(copied, swept.plan, swept.dataset, ledger)
    assert (copied.best / "predictions.test.parquet").read_text() == "kept"
    assert json.loads(metrics.read_text()) == said
    # Chosen when yet another trial led, or by a pkdray that did not say.
    for older in ({**said, "best_of_search": second}, {"trial": second}):
        write_best(copied, swept.plan, swept.dataset, second)
        metrics.write_text(json.dumps(older))
        write_results(copied, swept.plan, swept.dataset, copied.ledger())
        assert read_bundle(copied.best)[0].made_from["trial"] == best.number


def test_a_sweep_without_a_complete_trial_has_a_table_and_no_best(tmp_path: Path, study, digits) -> None:
    plan = study()
    run = Run.create(tmp_path / "empty", plan)
    write_results(run, plan, digits, run.ledger())
    assert len(pd.read_parquet(run.path / "trials.parquet")) == 0
    assert not run.best.exists()


def test_choices_of_lists_and_of_nothing_fit_into_the_table(tmp_path: Path, study, digits) -> None:
    teachers = {"choice": [None, ["joint"], ["shape", "zer"]]}
    space = {"method.teachers": teachers, "method.theta": {"choice": [None, 0.5]}}
    plan = study({"search.space": space, "search.sampler": "grid", "search.trials": 6})
    run = Run.create(tmp_path / "mixed", plan)
    ledger = run.ledger()
    for _ in range(6):
        trial = ledger.ask(sampler_for(plan.config))
        suggest(plan.config.search.space, trial, {})
        ledger.fail(trial.number, "why")
    write_results(run, plan, digits, ledger)
    table = pd.read_parquet(run.path / "trials.parquet")
    assert table["reason"].tolist() == ["why"] * 6
    assert table["parameter.method.theta"].dropna().tolist() == [0.5] * 3
    assert set(table["parameter.method.teachers"]) == {"null", '["joint"]', '["shape", "zer"]'}
