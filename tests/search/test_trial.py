"""One trial: its files, and that it is trained once however often its process is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pkdray.data.dataset import Dataset
from pkdray.errors import ConfigError, DivergedError
from pkdray.search import trial as trial_module
from pkdray.search.sweep import study_arrays
from pkdray.search.trial import BEST, CONFIG, CURVES, RESULT, run_trial
from pkdray.training.checkpoints import load_tensors
from pkdray.training.inputs import split_arrays, student_rows
from pkdray.training.loop import LAST
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.students import fresh_student, scores

TAUGHT_BY_TWO = {"method.name": "mt-pkdot", "method.top_k": 5, "method.teachers": ["joint", "zer"]}
OVERRIDES = {"method.name": "kl", "method.temperature": 3.0}


class KilledError(Exception):
    """Stands for SIGKILL: leaves the trial at once, with whatever is on disk."""


@pytest.fixture(scope="module")
def base(study: Callable[..., Plan]) -> Plan:
    return study()


@pytest.fixture(scope="module")
def arrays(base: Plan, digits: Dataset, pools: Path) -> dict[str, dict[str, np.ndarray]]:
    return study_arrays(base, digits, Pool.at(pools, base))


@pytest.fixture(scope="module")
def whole(base: Plan, arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the trial comes to when nothing happens to it."""
    return run_trial(base, OVERRIDES, arrays, tmp_path_factory.mktemp("whole"))


def without_time(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "seconds"}


def stopped_at(epoch: int) -> Callable[[dict[str, float]], None]:
    def report(entry: dict[str, float]) -> None:
        if entry["epoch"] == epoch:
            raise KilledError

    return report


def test_a_trial_leaves_its_config_its_curves_its_best_weights_and_its_result(
    tmp_path: Path, base: Plan, arrays
) -> None:
    seen: list[dict[str, float]] = []
    summary = run_trial(base, TAUGHT_BY_TWO, arrays, tmp_path / "0", report=seen.append)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == sorted([CONFIG, CURVES, RESULT, BEST])

    curves = pd.read_parquet(tmp_path / "0" / CURVES)
    assert curves["epoch"].tolist() == list(range(1, 10))
    assert summary["epochs"] == 9
    assert summary["value"] == curves["accuracy"].max()
    assert summary["epoch"] == curves["epoch"][curves["accuracy"].idxmax()]
    assert [entry["epoch"] for entry in seen] == list(range(1, 9)), "the last epoch is the result, not a report"
    assert [entry["best"] for entry in seen] == curves["accuracy"].cummax().tolist()[:-1]

    said = yaml.safe_load((tmp_path / "0" / CONFIG).read_text())
    assert said["method"]["name"] == summary["method"] == "mt-pkdot"
    assert said["method"]["top_k"] == 5
    assert said["training"]["learning_rate"] == 0.01
    assert summary["teachers"].keys() == {"joint", "zer"}
    assert sum(summary["teachers"].values()) == pytest.approx(1, abs=1e-3)

    config = base.trial_config(TAUGHT_BY_TWO)
    student = fresh_student(base, config)
    student.load_state_dict(load_tensors(tmp_path / "0" / BEST)[0])
    rows = student_rows(arrays["val"], base.prevalent, [], privileged=False)
    assert scores(student, rows, base) == summary["metrics"], "the weights kept are those of the best epoch"


def test_a_trial_that_learns_its_weights_logs_them_and_keeps_them_out_of_the_student(
    tmp_path: Path, base: Plan, arrays
) -> None:
    overrides = {**TAUGHT_BY_TWO, "method.alpha": "learned"}
    summary = run_trial(base, overrides, arrays, tmp_path)
    curves = pd.read_parquet(tmp_path / CURVES)
    parts = ("task", "transport", "centroid")
    assert [name for name in curves.columns if "/weight/" in name] == [f"train/weight/{part}" for part in parts]
    for part in parts:
        assert curves[f"train/weight/{part}"].nunique() == len(curves)
    assert summary["teachers"].keys() == {"joint", "zer"}
    weights = load_tensors(tmp_path / BEST)[0]
    assert weights.keys() == fresh_student(base, base.trial_config(overrides)).state_dict().keys()


def test_a_trial_that_is_finished_is_not_trained_again(
    tmp_path: Path, base: Plan, arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run_trial(base, OVERRIDES, arrays, tmp_path)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}

    def train_student(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(trial_module, "train_student", train_student)
    assert run_trial(base, OVERRIDES, arrays, tmp_path) == summary
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before
    with pytest.raises(AssertionError, match="trained again"):
        # Another proposal in the same folder is another trial.
        run_trial(base, {**OVERRIDES, "method.temperature": 2.0}, arrays, tmp_path)


@pytest.mark.parametrize(("tnet", "alpha"), [("frozen", 0.3), ("joint", 0.3), ("none", 0.3), ("frozen", "learned")])
def test_an_interrupted_trial_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, base: Plan, arrays, tnet: str, alpha: float | str
) -> None:
    method = TAUGHT_BY_TWO if tnet == "frozen" else OVERRIDES
    overrides = {**method, "student.tnet.training": tnet, "method.alpha": alpha}
    whole = run_trial(base, overrides, arrays, tmp_path / "whole", tnets=tmp_path / "tnets")
    with pytest.raises(KilledError):
        run_trial(base, overrides, arrays, tmp_path / "cut", tnets=tmp_path / "tnets", report=stopped_at(5))
    assert not (tmp_path / "cut" / RESULT).exists()
    seen: list[float] = []
    resumed = run_trial(
        base,
        overrides,
        arrays,
        tmp_path / "cut",
        tnets=tmp_path / "tnets",
        report=lambda entry: seen.append(entry["epoch"]),
    )
    assert seen == [5, 6, 7, 8], "checkpoints are two epochs apart, so only epoch 5 is repeated"
    assert without_time(resumed) == without_time(whole)
    curves = [pd.read_parquet(tmp_path / name / CURVES) for name in ("whole", "cut")]
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    weights = [load_tensors(tmp_path / name / BEST)[0] for name in ("whole", "cut")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_trial_killed_after_its_last_epoch_and_before_its_result_only_writes_the_result(
    tmp_path: Path, base: Plan, arrays, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_json(*_: Any) -> None:
        raise KilledError

    monkeypatch.setattr(trial_module, "write_json", write_json)
    with pytest.raises(KilledError):
        run_trial(base, OVERRIDES, arrays, tmp_path / "cut")
    monkeypatch.undo()
    seen: list[Any] = []
    assert without_time(run_trial(base, OVERRIDES, arrays, tmp_path / "cut", report=seen.append)) == without_time(whole)
    assert seen == []


@pytest.mark.parametrize("name", [RESULT, LAST])
@pytest.mark.parametrize("kept", [0, 0.5], ids=["empty", "half"])
def test_a_damaged_file_costs_a_training_and_nothing_else(
    tmp_path: Path, base: Plan, arrays, whole: dict[str, Any], name: str, kept: float
) -> None:
    folder = tmp_path / "damaged"
    if name == RESULT:
        run_trial(base, OVERRIDES, arrays, folder)
    else:
        with pytest.raises(KilledError):
            run_trial(base, OVERRIDES, arrays, folder, report=stopped_at(5))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    seen: list[float] = []
    again = run_trial(base, OVERRIDES, arrays, folder, report=lambda entry: seen.append(entry["epoch"]))
    assert seen[0] == 1
    assert without_time(again) == without_time(whole)
    assert without_time(json.loads((folder / RESULT).read_text()))["value"] == whole["value"]


def test_the_checkpoint_of_another_proposal_is_not_continued(tmp_path: Path, base: Plan, arrays) -> None:
    with pytest.raises(KilledError):
        run_trial(base, OVERRIDES, arrays, tmp_path / "0", report=stopped_at(5))
    other = {**OVERRIDES, "training.learning_rate": 0.02}
    fresh = run_trial(base, other, arrays, tmp_path / "1")
    assert without_time(run_trial(base, other, arrays, tmp_path / "0")) == without_time(fresh)


def test_trials_share_a_frozen_tnet_and_get_the_same_result_from_it(
    tmp_path: Path, base: Plan, arrays, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_trial(base, OVERRIDES, arrays, tmp_path / "1", tnets=tmp_path / "tnets")
    (shared,) = (tmp_path / "tnets").iterdir()

    def fit_tnet(*_: Any, **__: Any) -> None:
        raise AssertionError("the shared T-Net was trained again")

    monkeypatch.setattr("pkdray.training.students.fit_tnet", fit_tnet)
    second = run_trial(base, OVERRIDES, arrays, tmp_path / "2", tnets=tmp_path / "tnets")
    assert without_time(whole) == without_time(first) == without_time(second)
    shared.unlink()
    with pytest.raises(AssertionError, match="trained again"):
        run_trial(base, OVERRIDES, arrays, tmp_path / "3", tnets=tmp_path / "tnets")


def test_a_trial_whose_loss_is_no_number_says_so_and_leaves_no_result(tmp_path: Path, base: Plan, arrays) -> None:
    wild = {"method.name": "supervised", "training.optimizer": "sgd", "training.learning_rate": 10.0}
    poisoned = {**arrays, "train": {**arrays["train"], "input.fou": arrays["train"]["input.fou"] * np.float32(1e30)}}
    with pytest.raises(DivergedError, match="loss became nan"):
        run_trial(base, wild, poisoned, tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_a_proposal_outside_its_domain_is_refused_before_anything_is_written(
    tmp_path: Path, base: Plan, arrays
) -> None:
    with pytest.raises(ConfigError, match=r"method\.top_k"):
        run_trial(base, {**TAUGHT_BY_TWO, "method.top_k": 97}, arrays, tmp_path / "0")
    assert not (tmp_path / "0").exists()


def test_where_less_is_better_a_trial_is_worth_its_lowest_epoch(tmp_path: Path, small_dataset, plan) -> None:
    dataset = small_dataset("regression", "frames")
    plan = plan(dataset, {"method.name": "supervised", "student.tnet.training": "none", "search.metric": "mae"})
    seen: list[float] = []
    summary = run_trial(
        plan,
        {"training.epochs": 6},
        split_arrays(plan, dataset, plan.prevalent),
        tmp_path / "0",
        report=lambda entry: seen.append(entry["best"]),
    )
    curve = pd.read_parquet(tmp_path / "0" / CURVES)["mae"]
    assert summary["value"] == curve.min() < curve.max()
    assert seen == curve.cummin().tolist()[:-1]
