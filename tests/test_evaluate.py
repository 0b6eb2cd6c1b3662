"""Honest evaluation: the comparison, the bounds, and a test split that is opened once."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from pkdray import evaluate as evaluate_module
from pkdray.config import build_config
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.errors import RunError
from pkdray.evaluate import EVALUATION, compare, evaluate_run, read_evaluation, retrain
from pkdray.search.results import write_results
from pkdray.search.run import POOLS, Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.search.sweep import study_arrays
from pkdray.search.trial import run_trial
from pkdray.training.bundles import read_bundle
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import Plan, make_plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_teacher, train_teacher

STUDY: dict[str, Any] = {
    "name": "honest",
    "seed": 5,
    "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor", "zer"]},
    "teachers": {
        "encoder": {"hidden": [13], "dropout": 0.1},
        "embedding": 11,
        "training": {"epochs": 5, "batch_size": 97, "learning_rate": 0.01},
        "adapters": {"enabled": False},
    },
    "student": {"encoder": {"hidden": [12], "dropout": 0.1}, "tnet": {"hidden": [9], "fit": {"epochs": 2}}},
    "method": {"name": "kl"},
    "training": {"epochs": 3, "batch_size": 97, "learning_rate": 0.0001},
    "search": {
        "trials": 3,
        "sampler": "grid",
        "space": {"training.learning_rate": {"choice": [0.01, 0.001]}, "training.batch_size": {"choice": [97, 53]}},
    },
}


# The comparison


def test_the_comparison_is_a_paired_t_test_over_seeds() -> None:
    lower, student = [0.701, 0.722, 0.713, 0.708, 0.719], [0.744, 0.751, 0.739, 0.757, 0.742]
    said = compare(lower, student, "max")
    reference = stats.ttest_rel(student, lower)
    assert said["p_value"] == pytest.approx(reference.pvalue)
    assert said["interval"] == pytest.approx(list(reference.confidence_interval(0.95)))
    assert said["difference"] == pytest.approx(0.034)
    assert said["verdict"] == "helped"
    # By hand: differences .043 .029 .026 .049 .023, mean .034, deviation .01140..., t(4, .975) = 2.7764
    margin = 2.7764 * np.std([0.043, 0.029, 0.026, 0.049, 0.023], ddof=1) / np.sqrt(5)
    assert said["interval"] == pytest.approx([0.034 - margin, 0.034 + margin], abs=1e-5)


def test_pairing_matters() -> None:
    """Seeds differ more than methods do: unpaired this would be nothing, paired it is plain."""
    lower = [0.50, 0.60, 0.70, 0.80, 0.90]
    student = [0.510, 0.612, 0.709, 0.811, 0.910]
    assert compare(lower, student, "max")["verdict"] == "helped"
    assert stats.ttest_ind(lower, student).pvalue > 0.9


@pytest.mark.parametrize(
    ("student", "mode", "verdict"),
    [
        ([0.76, 0.77, 0.78], "max", "helped"),
        ([0.76, 0.77, 0.78], "min", "hurt"),
        ([0.64, 0.67, 0.64], "max", "hurt"),
        ([0.64, 0.67, 0.64], "min", "helped"),
        ([0.75, 0.65, 0.72], "max", "not enough evidence"),
    ],
)
def test_the_verdict_follows_the_metrics_direction(student: list[float], mode: str, verdict: str) -> None:
    said = compare([0.70, 0.72, 0.71], student, mode)
    assert said["verdict"] == verdict
    better = np.mean(student) - 0.71 if mode == "max" else 0.71 - np.mean(student)
    assert said["difference"] == pytest.approx(better)


@pytest.mark.parametrize(
    ("lower", "student"), [([0.7], [0.9]), ([0.7, 0.5], [0.7, 0.5]), ([0.5, 0.75], [0.625, 0.875])]
)
def test_without_a_spread_there_is_no_test(lower: list[float], student: list[float]) -> None:
    said = compare(lower, student, "max")
    assert said["verdict"] == "not enough evidence"
    assert said["p_value"] is None
    assert said["interval"] is None
    json.dumps(said, allow_nan=False)


# A run's evaluation


@dataclass(frozen=True)
class World:
    run: Run
    plan: Plan
    dataset: Dataset
    pool: Pool

    def evaluate(self, **settings: Any) -> dict[str, Any]:
        return evaluate_run(self.run, self.plan, self.dataset, self.pool, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run of three trials, made without Ray."""
    runs = tmp_path_factory.mktemp("runs")
    dataset = open_dataset("mfeat")
    plan = make_plan(build_config(STUDY), dataset)
    pool = Pool.at(runs / POOLS, plan)
    (member,) = plan.pool.values()
    arrays = split_arrays(plan, dataset, member.modalities)
    metrics = train_teacher(plan, member, arrays, pool.teacher(member.name))
    embed_pool(plan, dataset, pool)
    pool.write(plan, {member.name: metrics})
    run = Run.create(runs / "honest", plan)
    ledger = run.ledger()
    for _ in range(3):
        trial = ledger.ask(sampler_for(plan.config))
        overrides = suggest(plan.config.search.space, trial, fixed_values(plan.config))
        summary = run_trial(plan, overrides, study_arrays(plan, dataset, pool), run.trial(trial.number))
        ledger.complete(trial.number, summary["value"], summary)
    write_results(run, plan, dataset, ledger)
    return World(run, plan, dataset, pool)


@pytest.fixture(scope="module")
def evaluated(finished: World, local_ray: None) -> tuple[World, dict[str, Any]]:
    return finished, finished.evaluate(seeds=2)


@pytest.fixture
def copied(evaluated: tuple[World, dict[str, Any]], tmp_path: Path) -> World:
    """A copy of the evaluated run, to be changed."""
    world, _ = evaluated
    shutil.copytree(world.run.path, tmp_path / "honest")
    return World(Run(tmp_path / "honest"), world.plan, world.dataset, world.pool)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def retrain_all(*_: Any) -> None:
        raise AssertionError("the test split was opened again")

    monkeypatch.setattr(evaluate_module, "_retrain_all", retrain_all)


needs_ray = [pytest.mark.ray, pytest.mark.slow]


class TestRun:
    pytestmark = needs_ray

    def test_it_stands_between_its_bounds_with_every_seed_told(self, evaluated) -> None:
        world, evaluation = evaluated
        best = world.run.ledger().best()
        assert best is not None
        assert evaluation["trial"] == best.number
        assert evaluation["seeds"] == [5, 6]
        assert evaluation["test_opened"]["times"] == 1
        assert json.loads((world.run.path / EVALUATION).read_text()) == evaluation
        methods = evaluation["methods"]
        for name in ("student", "lower_bound"):
            about = methods[name]
            assert len(about["values"]) == len(about["validation"]) == 2
            assert about["mean"] == pytest.approx(np.mean(about["values"]))
            assert about["std"] == pytest.approx(np.std(about["values"], ddof=1))
            low, high = about["interval"]
            margin = stats.t.ppf(0.975, 1) * about["std"] / np.sqrt(2)
            assert (low, high) == pytest.approx((about["mean"] - margin, about["mean"] + margin))
        assert len(methods["teacher"]["values"]) == 1
        assert methods["teacher"]["std"] is None
        expected = compare(methods["lower_bound"]["values"], methods["student"]["values"], "max")
        assert evaluation["comparison"] == expected

    def test_the_upper_bound_is_what_the_teachers_weights_score(self, evaluated) -> None:
        world, evaluation = evaluated
        plan = world.plan
        member = plan.pool["joint"]
        teacher = load_teacher(plan, member, world.pool.teacher("joint"))
        for split, key in (("test", "values"), ("val", "validation")):
            arrays = split_arrays(plan, world.dataset, member.modalities, [split])[split]
            with torch.no_grad():
                logits = teacher({name: torch.from_numpy(arrays[f"input.{name}"]) for name in member.modalities})
            right = logits.prediction.argmax(-1).numpy() == world.dataset.targets()[world.dataset.rows(split)]
            assert evaluation["methods"]["teacher"][key] == [pytest.approx(right.mean())]

    def test_the_lower_bound_has_no_tnet_and_no_teacher_and_the_same_budget(self, evaluated) -> None:
        world, evaluation = evaluated
        arrays = study_arrays(world.plan, world.dataset, world.pool)
        arrays |= split_arrays(world.plan, world.dataset, ["fou"], ["test"])
        # Without what teachers said there is nothing that it could have learned from them.
        bare = {split: {key: values[key] for key in ("input.fou", "target")} for split, values in arrays.items()}
        best = world.run.ledger().best()
        assert best is not None
        overrides = {"method.name": "supervised", "student.tnet.training": "none", **best.params}
        said = [retrain(world.plan, overrides, bare, seed) for seed in (5, 6)]
        # The study's own learning rate is far too low, so the best trial's settings make the stronger bound.
        lower = evaluation["methods"]["lower_bound"]
        assert "best trial's training" in lower["what"]
        assert "no T-Net" in lower["what"]
        assert lower["values"] == [score["test"]["accuracy"] for score in said]

    def test_the_student_that_is_exported_is_scored_as_it_is(self, evaluated) -> None:
        world, evaluation = evaluated
        info, pipeline, _ = read_bundle(world.run.best)
        rows = world.dataset.rows("test")
        with torch.no_grad():
            said = pipeline(torch.from_numpy(np.array(world.dataset.features("fou")[rows])))
        right = said.argmax(-1).numpy() == world.dataset.targets()[rows]
        assert evaluation["student"]["test"]["accuracy"] == pytest.approx(right.mean())
        best = world.run.ledger().best()
        assert best is not None
        assert evaluation["student"]["validation"]["accuracy"] == pytest.approx(best.value)
        table = pd.read_parquet(world.run.best / "predictions.test.parquet")
        assert table["sample_id"].tolist() == world.dataset.samples["sample_id"].iloc[rows].tolist()
        assert table["prediction"].tolist() == [info.classes[index] for index in said.argmax(-1)]

    def test_asked_again_it_returns_what_it_found_and_opens_nothing(self, evaluated, no_training: None) -> None:
        world, evaluation = evaluated
        assert world.evaluate(seeds=2) == evaluation
        assert world.evaluate(seeds=2, reopen=True) == evaluation

    def test_more_seeds_need_reopen(self, evaluated, no_training: None) -> None:
        world, evaluation = evaluated
        with pytest.raises(RunError, match="was opened on") as caught:
            world.evaluate(seeds=3)
        assert "--reopen" in str(caught.value)
        assert read_evaluation(world.run) == evaluation

    def test_another_best_trial_needs_reopen(self, copied: World, no_training: None) -> None:
        ledger = copied.run.ledger()
        ledger.extend(4)
        trial = ledger.ask(sampler_for(copied.plan.config))
        ledger.complete(trial.number, 0.999, {})
        with pytest.raises(RunError, match=f"now trial {trial.number} and 2 seeds"):
            copied.evaluate(seeds=2)

    def test_reopened_it_counts_the_openings(self, copied: World, local_ray: None) -> None:
        evaluation = copied.evaluate(seeds=1, reopen=True)
        assert evaluation["test_opened"]["times"] == 2
        assert evaluation["seeds"] == [5]
        assert evaluation["comparison"]["verdict"] == "not enough evidence"
        assert evaluation["methods"]["student"]["interval"] is None
        assert read_evaluation(copied.run) == evaluation

    def test_the_same_seeds_give_the_same_numbers(self, evaluated, copied: World, local_ray: None) -> None:
        _, before = evaluated
        (copied.run.path / EVALUATION).unlink()
        after = copied.evaluate(seeds=2)
        for document in (before := copy.deepcopy(before), after):
            document["test_opened"].pop("at")
        assert after == before

    def test_a_damaged_evaluation_does_not_count_as_none(self, copied: World, no_training: None) -> None:
        (copied.run.path / EVALUATION).write_text('{"trial": 1, "see')
        with pytest.raises(RunError, match=r"evaluation\.json is damaged"):
            copied.evaluate(seeds=2)

    def test_an_interrupted_run_is_evaluated_with_the_best_so_far(
        self, copied: World, local_ray: None, monkeypatch: pytest.MonkeyPatch, evaluated
    ) -> None:
        """Its best/ is not written yet, and must not be made of test predictions alone."""
        (copied.run.path / EVALUATION).unlink()
        shutil.rmtree(copied.run.best)
        world, before = evaluated
        outcome = {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}

        def retrain_all(
            _plan: Any, _dataset: Any, _pool: Any, candidates: dict[str, Any], seeds: list[int], _storage: Path
        ) -> Any:
            return {name: [outcome] * len(seeds) for name in candidates}

        monkeypatch.setattr(evaluate_module, "_retrain_all", retrain_all)
        assert copied.evaluate(seeds=2)["student"] == before["student"]
        assert {path.name for path in copied.run.best.iterdir()} == {path.name for path in world.run.best.iterdir()}
        read_bundle(copied.run.best)


def test_a_run_without_a_complete_trial_cannot_be_evaluated(
    finished: World, tmp_path: Path, no_training: Callable[..., None]
) -> None:
    run = Run.create(tmp_path / "empty", finished.plan)
    with pytest.raises(RunError, match="No trial of empty is complete") as caught:
        evaluate_run(run, finished.plan, finished.dataset, finished.pool, seeds=2)
    assert f"pkdray resume {run.path}" in str(caught.value)
    assert read_evaluation(run) is None


def test_nothing_before_the_evaluation_knows_the_test_labels(finished: World) -> None:
    assert set(study_arrays(finished.plan, finished.dataset, finished.pool)) == {"train", "val"}
    rows = finished.dataset.rows("test")
    ids = finished.dataset.samples["sample_id"].iloc[rows].tolist()
    said = finished.pool.load_embeddings(finished.plan, ids)["joint"]
    assert np.isnan(said.loss).all()
    assert np.isnan(said.gamma).all()
    assert not (finished.run.best / "predictions.test.parquet").exists() or (finished.run.path / EVALUATION).exists()
