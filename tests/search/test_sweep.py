"""A sweep through Ray: every trial accounted for, the failed ones too, and the best student whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from patience import until
from ray.util import placement_group_table

from pkdray.data.dataset import Dataset
from pkdray.embeddings import SharedArrays
from pkdray.errors import CheckpointError, StorageError
from pkdray.search.ledger import reason, summary
from pkdray.search.run import POOLS, Run
from pkdray.search.sweep import study_arrays, sweep
from pkdray.search.trial import BEST, CURVES, RESULT, run_trial
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def states(run: Run) -> list[str]:
    return [trial.state.name for trial in run.ledger().trials()]


def test_every_planned_trial_is_accounted_for(swept) -> None:
    ledger = swept.run.ledger()
    trials = ledger.trials()
    assert [trial.number for trial in trials] == list(range(7))
    counts = ledger.counts()
    assert counts.finished == counts.planned == 7
    assert counts.running == counts.open == counts.failed == 0
    assert {trial.params["method.name"] for trial in trials} >= {"kl", "pkdot"}, "several methods in one sweep"
    for trial in trials:
        files = {path.name for path in swept.run.trial(trial.number).iterdir()}
        if trial.state.name == "COMPLETE":
            result = json.loads((swept.run.trial(trial.number) / RESULT).read_text())
            assert result["value"] == trial.value
            assert result["epochs"] == summary(trial)["epochs"] <= 9
            assert BEST in files
            assert list(trial.intermediate_values) == list(range(1, result["epochs"]))
        else:
            assert RESULT not in files, "a stopped trial has no result"
            assert max(trial.intermediate_values) < 9
    assert not (swept.run.path / ".tune").exists(), "Tune's own records are gone"


def test_asha_stopped_a_trial_that_the_others_beat(swept) -> None:
    pruned = [trial for trial in swept.run.ledger().trials() if trial.state.name == "PRUNED"]
    assert pruned
    best = swept.run.ledger().best()
    assert best is not None
    for trial in pruned:
        assert max(trial.intermediate_values) in (2, 4, 8), "at a rung"
        assert trial.value is not None
        assert trial.value < best.value


def test_progress_is_told_and_ends_with_all_trials_done(swept) -> None:
    finished = [progress.counts.finished for progress in swept.progress]
    assert finished == sorted(finished)
    best = swept.run.ledger().best()
    assert best is not None
    assert swept.last.counts.finished == swept.last.counts.planned == 7
    assert (swept.last.best_number, swept.last.best_value) == (best.number, best.value)


def test_a_resume_of_a_finished_sweep_trains_nothing_and_an_extension_trains_the_difference(
    swept, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[int] = []
    monkeypatch.setattr(SharedArrays, "verify", lambda self: verified.append(self.nbytes()))
    shutil.copytree(swept.run.path, tmp_path / "digits")
    run = Run(tmp_path / "digits")
    before = {trial.number: trial.datetime_complete for trial in run.ledger().trials()}
    weights = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.safetensors")}
    assert sweep(run, swept.plan, swept.dataset, swept.pool).counts.finished == 7
    assert not verified, "nothing was shared"

    run.ledger().extend(9)
    progress = sweep(run, swept.plan, swept.dataset, swept.pool)
    assert progress.counts.finished == progress.counts.planned == 9
    assert len(verified) == 1, "at its end the sweep makes sure that nobody wrote into the shared arrays"
    after = {trial.number: trial.datetime_complete for trial in run.ledger().trials()}
    assert sorted(after) == list(range(9))
    assert {number: after[number] for number in before} == before
    assert {path: path.stat().st_mtime_ns for path in weights if "trials" in path.parts} == {
        path: moment for path, moment in weights.items() if "trials" in path.parts
    }
    assert len(pd.read_parquet(run.path / "trials.parquet")) == 9


def test_a_diverging_trial_fails_with_its_reason_and_the_sweep_goes_on(
    study: Callable[..., Plan], digits: Dataset, pools: Path, local_ray: None, tmp_path: Path
) -> None:
    # A grid, so that it is known which trials diverge: weights decay with a factor of -99 a step.
    plan = study(
        {
            "search.sampler": "grid",
            "search.asha": None,
            "training.optimizer": "sgd",
            "training.epochs": 4,
            "student.tnet.training": "none",
            "search.space": {
                "training.weight_decay": {"choice": [0.0, 1e4]},
                "method.name": {"choice": ["kl", "supervised"]},
            },
        }
    )
    run = Run.create(tmp_path / "wild", plan)
    progress = sweep(run, plan, digits, Pool.at(pools, plan))
    assert progress.counts.finished == 4
    assert (progress.counts.complete, progress.counts.failed, progress.counts.running) == (2, 2, 0)
    for trial in run.ledger().trials():
        if trial.params["training.weight_decay"]:
            assert trial.state.name == "FAIL"
            assert "The training loss became nan in epoch" in str(reason(trial))
            assert not (run.trial(trial.number) / RESULT).exists()
        else:
            assert trial.state.name == "COMPLETE"
    table = pd.read_parquet(run.path / "trials.parquet")
    assert table.loc[table["state"] == "fail", "reason"].str.contains("nan").all()
    assert json.loads((run.best / "metrics.json").read_text())["trial"] == progress.best_number


def test_trials_on_two_workers_are_those_of_one(
    study: Callable[..., Plan], digits: Dataset, pools: Path, local_ray: None, tmp_path: Path
) -> None:
    # The second hardly moves, so that ASHA stops it at its first rung; the third gets its CPUs, and diverges.
    plan = study(
        {
            "search.sampler": "grid",
            "search.asha.grace_epochs": 1,
            "training.optimizer": "sgd",
            "training.epochs": 3,
            "student.encoder.dropout": 0.0,
            "student.tnet.dropout": 0.0,
            "method.name": "mt-pkdot",
            "resources.workers_per_trial": 2,
            "search.space": {"training.learning_rate": {"choice": [0.02, 1e-7, 10.0]}},
            "training.gradient_clip": None,
            "training.weight_decay": 1.0,
        }
    )
    pool = Pool.at(pools, plan)
    shutil.copytree(pools, tmp_path / POOLS)
    run = Run.create(tmp_path / "pair", plan)
    progress = sweep(run, plan, digits, Pool.at(tmp_path / POOLS, plan))
    by_rate = {trial.params["training.learning_rate"]: trial for trial in run.ledger().trials()}
    assert progress.counts.finished == 3
    assert {rate: trial.state.name for rate, trial in by_rate.items()} == {
        0.02: "COMPLETE", 10.0: "FAIL", 1e-7: "PRUNED"
    }  # fmt: skip
    assert "The training loss became" in str(reason(by_rate[10.0]))
    assert not list(run.path.rglob(".train*")), "Ray Train's own records are gone"
    # CPUs are free again.
    until(lambda: {group["state"] for group in placement_group_table().values()} <= {"REMOVED"})
    alone = run_trial(plan, {"training.learning_rate": 0.02}, study_arrays(plan, digits, pool), tmp_path / "alone")
    result = json.loads((run.trial(by_rate[0.02].number) / RESULT).read_text())
    # Of 500 rows two may fall to the other side of a tie: sums are in another order.
    assert result["value"] == pytest.approx(alone["value"], abs=5e-3)
    found, expected = (
        pd.read_parquet(folder / CURVES) for folder in (run.trial(by_rate[0.02].number), tmp_path / "alone")
    )
    assert list(found.columns) == list(expected.columns)
    for name in ("train/loss", "train/task", "train/transport", "train/centroid"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)
    assert list(by_rate[0.02].intermediate_values) == [1, 2]


def test_arrays_that_were_written_into_are_found_out(local_ray: None) -> None:
    values = {"train": {"target": np.arange(7)}, "val": {"target": np.arange(5)}}
    shared = SharedArrays.put(values)
    shared.verify()
    view = shared.get()["val"]["target"]
    assert not view.flags.writeable
    shared._digests["val"]["target"] = "what it was when it was put"
    with pytest.raises(StorageError, match="val/target"):
        shared.verify()


def test_trials_read_what_each_teacher_says_of_its_own_split(swept) -> None:
    arrays = study_arrays(swept.plan, swept.dataset, swept.pool)
    assert set(arrays) == {"train", "val"}, "the search never sees the test split"
    ids = swept.dataset.samples["sample_id"]
    for split in arrays:
        rows = swept.dataset.rows(split)
        said = swept.pool.load_embeddings(swept.plan, ids.iloc[rows].tolist())
        assert len(arrays[split]["target"]) == len(rows)
        np.testing.assert_array_equal(arrays[split]["zer.embedding"], said["zer"].embedding)
        np.testing.assert_array_equal(arrays[split]["target"], swept.dataset.targets()[rows])


def test_a_damaged_pool_stops_a_sweep_before_any_trial_starts(
    study: Callable[..., Plan], digits: Dataset, pools: Path, local_ray: None, tmp_path: Path
) -> None:
    shutil.copytree(pools, tmp_path / POOLS)
    plan = study()
    pool = Pool.at(tmp_path / POOLS, plan)
    file = pool.embeddings("zer")
    file.write_bytes(file.read_bytes()[:100])
    run = Run.create(tmp_path / "digits", plan)
    with pytest.raises(CheckpointError, match=r"zer\.parquet"):
        sweep(run, plan, digits, pool)
    assert states(run) == []


def test_a_sweep_whose_disk_is_full_leaves_its_trials_open_and_a_resume_ends_them(
    study: Callable[..., Plan], digits: Dataset, pools: Path, local_ray: None, tmp_path: Path
) -> None:
    plan = study({"search.trials": 3, "search.asha": None, "training.epochs": 3})
    run = Run.create(tmp_path / "digits", plan)
    # A place that no process can write to, root's neither.
    (run.path / "trials").symlink_to("/sys")
    with pytest.raises(StorageError) as caught:
        sweep(run, plan, digits, Pool.at(pools, plan))
    assert f"pkdray resume {run.path}" in str(caught.value)
    assert run.ledger().counts().open == 3
    assert "RUNNING" not in states(run)
    assert "FAIL" not in states(run)

    (run.path / "trials").unlink()
    progress = sweep(run, plan, digits, Pool.at(pools, plan))
    assert (progress.counts.complete, progress.counts.planned) == (3, 3)
    assert [trial.number for trial in run.ledger().trials()] == [0, 1, 2]
