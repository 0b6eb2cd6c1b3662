"""A run's evaluation through Ray: its bounds, its seeds and folds, and a test split that is opened once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pkdray.data.dataset import Dataset
from pkdray.errors import ConfigError, RunError
from pkdray.evaluate import (
    EVALUATION,
    FORMAT,
    Request,
    against_bound,
    as_then,
    evaluate_run,
    on_ray,
    read_evaluation,
    student_trial,
)
from pkdray.evaluate import evaluation as evaluation_module
from pkdray.evaluate.on_ray import FOLDER
from pkdray.evaluate.opening import OPENED, record_opening
from pkdray.evaluate.statistics import compare_pairs, describe
from pkdray.evaluate.trainings import TESTED, TRAINED, score_one, train_one
from pkdray.search.run import Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.search.sweep import study_arrays
from pkdray.steps.evaluating import verdict
from pkdray.training.bundles import read_bundle
from pkdray.training.inputs import split_arrays
from pkdray.training.teachers import load_teacher

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def __init__(self, *_: Any) -> None:
            raise AssertionError("something is trained, or the test split is opened")

    monkeypatch.setattr(evaluation_module, "Trainer", Nobody)


def files(world: Any) -> dict[str, float]:
    """When each finished training of an evaluation was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (world.run.path / FOLDER).glob(f"*/{TRAINED}")}


def without_times(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What must be the same whenever it is done."""
    methods = {
        name: {
            **row,
            "pairs": [{key: value for key, value in pair.items() if key != "seconds"} for pair in row["pairs"]],
        }
        for name, row in evaluation["methods"].items()
    }
    return {**evaluation, "methods": methods, "test_opened": evaluation["test_opened"]["times"], "seconds": None}


class TestBounds:
    def test_student_and_bounds_are_told_with_every_seed(self, evaluated) -> None:
        world, evaluation = evaluated
        best = world.run.ledger().best()
        assert evaluation["trial"] == best.number
        assert evaluation["seeds"] == [5, 6]
        assert evaluation["folds"] == [None]
        assert evaluation["test_opened"]["times"] == 1
        assert json.loads((world.run.path / EVALUATION).read_text()) == evaluation
        methods = evaluation["methods"]
        assert list(methods) == ["lower_bound", "student", "teacher"]
        for name in ("student", "lower_bound"):
            about = methods[name]
            assert [pair["seed"] for pair in about["pairs"]] == [5, 6]
            assert about["values"] == [pair["test"]["accuracy"] for pair in about["pairs"]]
            assert about["validation"] == [pair["validation"]["accuracy"] for pair in about["pairs"]]
            assert {key: about[key] for key in ("mean", "std", "interval")} == describe(about["values"])
        assert len(methods["teacher"]["values"]) == 1
        assert methods["teacher"]["std"] is None
        (comparison,) = evaluation["comparisons"]
        expected = compare_pairs(methods["lower_bound"]["values"], methods["student"]["values"], "max")
        assert {key: comparison[key] for key in expected} == expected
        assert "seeds are the least" in comparison["sentence"] or "more seed" in comparison["sentence"]

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

    def test_the_lower_bound_has_no_teacher_the_same_budget_and_its_own_learning_rate(
        self, evaluated, tmp_path: Path
    ) -> None:
        world, evaluation = evaluated
        lower = evaluation["methods"]["lower_bound"]
        drawn = lower["configuration"]
        assert drawn["method.name"] == "supervised"
        assert drawn["student.tnet.training"] == "none"
        # The study's own rate is far too low, the search's best is the upper end of its range.
        assert drawn["training.learning_rate"] == 0.01
        assert lower["tuned"] > 7
        arrays = study_arrays(world.plan, world.dataset, world.pool)
        arrays |= split_arrays(world.plan, world.dataset, ["fou"], ["test"])
        # Without what teachers said there is nothing that it could have learned from them.
        bare = {split: {key: values[key] for key in ("input.fou", "target")} for split, values in arrays.items()}
        for index, seed in enumerate((5, 6)):
            trained = train_one(world.plan, drawn, bare, seed, tmp_path / str(seed))
            said = score_one(world.plan, drawn, bare, seed, tmp_path / str(seed))
            assert trained["epochs"] <= world.plan.config.training.epochs
            assert lower["values"][index] == said["accuracy"]
            assert lower["validation"][index] == trained["validation"]["accuracy"]

    def test_the_student_that_is_exported_is_scored_as_it_is(self, evaluated) -> None:
        world, evaluation = evaluated
        info, pipeline, _ = read_bundle(world.run.best)
        rows = world.dataset.rows("test")
        with torch.no_grad():
            said = pipeline(torch.from_numpy(np.array(world.dataset.features("fou")[rows])))
        right = said.argmax(-1).numpy() == world.dataset.targets()[rows]
        assert evaluation["student"]["test"]["accuracy"] == pytest.approx(right.mean())
        best = world.run.ledger().best()
        assert evaluation["student"]["validation"]["accuracy"] == pytest.approx(best.value)
        table = pd.read_parquet(world.run.best / "predictions.test.parquet")
        assert table["sample_id"].tolist() == world.dataset.samples["sample_id"].iloc[rows].tolist()
        assert table["prediction"].tolist() == [info.classes[index] for index in said.argmax(-1)]
        classes = evaluation["subgroups"]["class"]
        assert sum(one["samples"] for one in classes) == len(rows)
        assert sum(one["samples"] * one["accuracy"] for one in classes) == pytest.approx(right.sum())


class TestOpening:
    def test_asked_again_it_returns_what_it_found_and_opens_nothing(self, evaluated, no_training: None) -> None:
        world, evaluation = evaluated
        assert world.evaluate(seeds=2) == evaluation
        assert world.evaluate(seeds=2, reopen=True) == evaluation

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"seeds": 3}, "now: trial . with 3 seeds"),
            ({"seeds": 2, "against": ["pkd"]}, "now: trial . with 2 seeds, against pkd"),
        ],
    )
    def test_another_request_needs_reopen(self, evaluated, no_training: None, asked: Any, said: str) -> None:
        world, evaluation = evaluated
        with pytest.raises(RunError, match=f"(?s)was opened on .* then: trial . with 2 seeds\n.*{said}") as caught:
            world.evaluate(**asked)
        assert "--reopen" in str(caught.value)
        assert read_evaluation(world.run) == evaluation

    def test_a_better_trial_needs_reopen_and_is_the_one_to_export(self, evaluated_copy, no_training: None) -> None:
        ledger = evaluated_copy.run.ledger()
        ledger.extend(4)
        trial = ledger.ask(sampler_for(evaluated_copy.plan.config))
        suggest(evaluated_copy.plan.config.search.space, trial, fixed_values(evaluated_copy.plan.config))
        ledger.complete(trial.number, 0.999, {})
        with pytest.raises(RunError, match=f"now: trial {trial.number} with 2 seeds"):
            evaluated_copy.evaluate(seeds=2)
        assert student_trial(evaluated_copy.run) == trial.number

    def test_another_second_best_trial_is_another_request(self, copied, no_training: None) -> None:
        """The best trial is still the best, and yet others would be compared than those it was opened for."""
        world = copied
        ranked = sorted(world.run.ledger().trials(), key=lambda trial: (-trial.value, trial.number))
        asked = {"trial": ranked[0].number, "seeds": [5, 6], "folds": [None], "top": 2, "against": []}
        record_opening(world.run, asked | {"trials": [trial.number for trial in ranked[:2]]})
        with pytest.raises(AssertionError, match="something is trained"):
            world.evaluate(seeds=2, top=2)
        ledger = world.run.ledger()
        ledger.extend(4)
        trial = ledger.ask(sampler_for(world.plan.config))
        suggest(world.plan.config.search.space, trial, fixed_values(world.plan.config))
        ledger.complete(trial.number, (ranked[0].value + ranked[1].value) / 2, {})
        with pytest.raises(RunError, match=rf"now: .*the best 2 \(trials {ranked[0].number}, {trial.number}\)"):
            world.evaluate(seeds=2, top=2)

    def test_reopened_it_counts_the_openings_and_trains_only_what_is_new(self, evaluated_copy, local_ray: None) -> None:
        before, first = files(evaluated_copy), read_evaluation(evaluated_copy.run)
        evaluation = evaluated_copy.evaluate(seeds=3, reopen=True)
        assert json.loads((evaluated_copy.run.path / "evaluation.1.json").read_text()) == first
        assert evaluation["test_opened"]["times"] == 2
        assert any("opened 2 times" in note for note in evaluation["notes"])
        after = files(evaluated_copy)
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + 2
        assert read_evaluation(evaluated_copy.run) == evaluation

    def test_an_older_pkdrays_opening_is_not_forgotten(self, copied, no_training: None) -> None:
        older = {"trial": 1, "seeds": [5], "test_opened": {"at": "2026-01-02", "times": 2}}
        (copied.run.path / EVALUATION).write_text(json.dumps(older))
        assert read_evaluation(copied.run) is None
        with pytest.raises(RunError, match=r"(?s)was opened on 2026-01-02 .*by an older pkdray"):
            copied.evaluate(seeds=2)
        (copied.run.path / EVALUATION).write_text(json.dumps({"trial": 1}))
        with pytest.raises(RunError, match=r"(?s)was opened on an unknown day .*by an older pkdray"):
            copied.evaluate(seeds=2)

    def test_an_evaluation_of_an_older_format_is_made_again_without_an_opening_and_kept_for_another_request(
        self, evaluated_copy, evaluated, local_ray: None
    ) -> None:
        path, (_, evaluation) = evaluated_copy.run.path / EVALUATION, evaluated
        older = json.dumps(evaluation | {"format": FORMAT - 1, "comparisons": []})
        path.write_text(older)
        assert read_evaluation(evaluated_copy.run) is None
        before = files(evaluated_copy)
        assert as_then(evaluated_copy.run) == ["--seeds", "2"]
        assert without_times(evaluated_copy.evaluate(seeds=2)) == without_times(evaluation)
        assert files(evaluated_copy) == before
        assert not list(evaluated_copy.run.path.glob("evaluation.*.json"))
        path.write_text(older)
        evaluated_copy.evaluate(seeds=1, reopen=True)
        assert json.loads((evaluated_copy.run.path / "evaluation.1.json").read_text()) == json.loads(older)

    @pytest.mark.parametrize("name", [EVALUATION, OPENED])
    def test_a_record_that_is_no_record_does_not_count_as_none(
        self, evaluated_copy, no_training: None, name: str
    ) -> None:
        (evaluated_copy.run.path / name).write_text("[]")
        with pytest.raises(RunError, match=f"{name} is damaged"):
            evaluated_copy.evaluate(seeds=3)

    @pytest.mark.parametrize("name", [EVALUATION, OPENED])
    def test_a_damaged_record_does_not_count_as_none(self, evaluated_copy, no_training: None, name: str) -> None:
        (evaluated_copy.run.path / name).write_text('{"trial": 1, "see')
        with pytest.raises(RunError, match=f"{name} is damaged"):
            evaluated_copy.evaluate(seeds=3)


class _StopError(Exception):
    """Stands for a kill."""


class TestResuming:
    def test_stopped_while_training_it_goes_on_and_has_not_opened_the_test_split(
        self, copied, evaluated, local_ray: None
    ) -> None:
        def stop(what: str, done: int, _: int) -> None:
            if what == "training" and done == 3:
                raise _StopError

        with pytest.raises(_StopError):
            copied.evaluate(stop, seeds=2)
        assert not (copied.run.path / OPENED).exists()
        assert not list((copied.run.path / FOLDER).glob(f"*/{TESTED}"))
        before = files(copied)
        evaluation = copied.evaluate(seeds=2)
        after = files(copied)
        assert {name: after[name] for name in before} == before
        assert without_times(evaluation) == without_times(evaluated[1])

    def test_a_training_that_fails_for_another_reason_is_told_with_a_cure_and_the_others_are_kept(
        self, copied, local_ray: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(work: Any, plan: Any, shared: Any, job: Any, place: Any) -> Any:
            from pkdray.evaluate.on_ray import _work

            if job.seed != 5:
                raise MemoryError("no room for it")
            return _work(work, plan, shared, job, place)

        monkeypatch.setattr(on_ray, "_work", failing)
        with pytest.raises(RunError, match=r"failed \(MemoryError: no room for it\)") as caught:
            copied.evaluate(seeds=2)
        assert "run the same command again" in str(caught.value)
        assert files(copied)
        assert not (copied.run.path / OPENED).exists()

    def test_stopped_while_scoring_it_goes_on_with_the_same_opening(self, copied, local_ray: None) -> None:
        def stop(what: str, *_: int) -> None:
            if "test" in what:
                raise _StopError

        with pytest.raises(_StopError):
            copied.evaluate(stop, seeds=2)
        (opening,) = json.loads((copied.run.path / OPENED).read_text())["openings"]
        assert not (copied.run.path / EVALUATION).exists()
        with pytest.raises(RunError, match="was opened on"):
            copied.evaluate(seeds=3)
        evaluation = copied.evaluate(seeds=2)
        assert evaluation["test_opened"] == {"at": opening["at"], "times": 1}
        assert not list((copied.run.path / FOLDER).glob("*/*.safetensors"))

    def test_an_interrupted_run_is_evaluated_with_the_best_so_far(self, copied, evaluated, local_ray: None) -> None:
        """Its best/ is not written yet, and must not be made of test predictions alone."""
        shutil.rmtree(copied.run.best)
        ledger = copied.run.ledger()
        ledger.extend(ledger.planned + 2)
        world, before = evaluated
        with pytest.raises(RunError, match=f"has {ledger.planned - 2} of {ledger.planned} trials") as caught:
            copied.evaluate(seeds=2)
        assert "--unfinished" in str(caught.value)
        assert not (copied.run.path / OPENED).exists()
        assert copied.evaluate(seeds=2, unfinished=True)["student"] == before["student"]
        assert {path.name for path in copied.run.best.iterdir()} == {path.name for path in world.run.best.iterdir()}
        read_bundle(copied.run.best)


@pytest.fixture(scope="module")
def compared(finished, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(finished.run.runs_dir, folder, dirs_exist_ok=True)
    world = type(finished)(Run(folder / "honest"), finished.plan, finished.dataset)
    return world, world.evaluate(seeds=3, top=2, against=["pkdot", "kl", "pkdot"])


class TestMethods:
    def test_validation_chooses_among_the_best_trials(self, compared) -> None:
        world, evaluation = compared
        first, second = evaluation["candidates"]
        assert first["search"] >= second["search"]
        chosen = max(evaluation["candidates"], key=lambda one: one["validation"])
        assert [one["chosen"] for one in evaluation["candidates"]] == [one is chosen for one in (first, second)]
        student = evaluation["methods"]["student"]
        assert evaluation["trial"] == student["trial"] == chosen["trial"] == student_trial(world.run)
        assert np.mean(student["validation"]) == pytest.approx(chosen["validation"])
        assert read_bundle(world.run.best)[0].made_from["trial"] == chosen["trial"]

    def test_who_was_not_chosen_is_not_scored_on_the_test_split(self, compared) -> None:
        world, evaluation = compared
        scored = len(list((world.run.path / FOLDER).glob(f"*/{TESTED}")))
        assert scored == sum(len(row["pairs"]) for name, row in evaluation["methods"].items() if name != "teacher")
        assert len(files(world)) > scored

    def test_a_method_that_was_not_searched_has_its_defaults_and_a_tuned_learning_rate(self, compared) -> None:
        _, evaluation = compared
        row = evaluation["methods"]["pkdot"]
        assert (row["method"], row["trial"]) == ("pkdot", None)
        assert row["tuned"] > 7
        assert set(row["configuration"]) == {"method.name", "training.learning_rate"}
        assert [pair["seed"] for pair in row["pairs"]] == [5, 6, 7]

    def test_with_top_a_searched_method_may_choose_among_as_many_of_its_own_trials(self, compared) -> None:
        """Or the student has more chances than those it is compared with."""
        world, evaluation = compared
        ranked = sorted(world.run.ledger().trials(), key=lambda trial: (-trial.value, trial.number))
        # kl is all that was searched, so its best two are the student's.
        assert evaluation["request"]["trials"] == [trial.number for trial in ranked[:2]]
        assert "kl" not in evaluation["methods"]
        note = f"kl is no row of its own: its best trial is the student (trial {evaluation['trial']})."
        assert note in evaluation["notes"]

    def test_comparisons_are_corrected_for_one_another(self, compared) -> None:
        _, evaluation = compared
        pairs = [(one["method"], one["against"]) for one in evaluation["comparisons"]]
        others = [name for name in ("pkdot", "kl") if name in evaluation["methods"]]
        bound = [("student", "lower_bound"), *((name, "lower_bound") for name in others)]
        assert pairs == [*bound, *(("student", name) for name in others)]
        for one in evaluation["comparisons"]:
            assert one["pairs"] == 3
            p, corrected = one["tests"]["wilcoxon"]["p"], one["tests"]["wilcoxon"]["p_holm"]
            assert p is None or p < corrected or corrected == 1.0


def test_every_fold_has_its_own_teacher_its_own_students_and_its_own_test_split(
    make_world: Callable[..., Any], small_dataset: Callable[..., Dataset], tmp_path: Path, local_ray: None
) -> None:
    dataset = small_dataset("regression")
    study = {
        "dataset": {"path": str(dataset.path), "prevalent": ["face"], "privileged": ["voice"], "fold": 2},
        "method": {"name": "pkd"},
        "search.trials": 1,
        "training.learning_rate": 0.01,
    }
    world = make_world(tmp_path / "runs", dataset, study)
    evaluation = world.evaluate(seeds=2, folds=[2, 0])
    assert evaluation["folds"] == [2, 0]
    student, teacher = evaluation["methods"]["student"], evaluation["methods"]["teacher"]
    assert [(pair["fold"], pair["seed"]) for pair in student["pairs"]] == [(2, 5), (2, 6), (0, 5), (0, 6)]
    assert [(pair["fold"], pair["seed"]) for pair in teacher["pairs"]] == [(2, None), (0, None)]
    assert evaluation["comparisons"][0]["pairs"] == 4
    assert any("searched on fold 2" in note for note in evaluation["notes"])
    assert any("the means of the 2 folds alone" in note for note in evaluation["notes"])
    assert evaluation["subgroups"]["class"] == []
    assert {one["name"] for one in evaluation["subgroups"]["subject"]} <= set(
        dataset.samples["subject_id"].iloc[dataset.rows("test", 2)]
    )
    # Fold 0, done by hand.
    from pkdray.config import apply_overrides, build_config
    from pkdray.training.plan import make_plan

    moved = make_plan(
        build_config(apply_overrides(world.plan.config.model_dump(mode="json", by_alias=True), {"dataset.fold": 0})),
        dataset,
    )
    arrays = study_arrays(moved, dataset, world.taught(moved)) | split_arrays(moved, dataset, ["face"], ["test"])
    train_one(moved, student["configuration"], arrays, 6, tmp_path / "by-hand")
    assert score_one(moved, student["configuration"], arrays, 6, tmp_path / "by-hand") == student["pairs"][3]["test"]
    # The run's own test split stays shut where it is not asked for, and fold 0 is no test for what was trained on it.
    (world.run.best / "predictions.test.parquet").unlink()
    other = world.evaluate(seeds=1, folds=[0], reopen=True)
    assert other["student"]["test"] is None
    assert other["student"]["validation"] == evaluation["student"]["validation"]
    assert other["subgroups"] == {}
    assert not (world.run.best / "predictions.test.parquet").exists()
    assert any("Subjects who are tested in fold 0 took part in that choice" in note for note in other["notes"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"against": ["pkd", "magic"]}, "--against names magic"),
            ({"folds": [0]}, "--folds names 0, but mfeat has no folds"),
        ],
    )
    def test_mistakes_are_told_before_anything_is_trained(self, copied, no_training, asked: Any, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            copied.evaluate(seeds=2, **asked)

    def test_a_run_without_a_complete_trial_cannot_be_evaluated(self, finished, tmp_path: Path, no_training) -> None:
        run = Run.create(tmp_path / "empty", finished.plan)
        with pytest.raises(RunError, match="No trial of empty is complete") as caught:
            evaluate_run(run, finished.plan, finished.dataset, finished.taught, Request(2))
        assert f"pkdray resume {run.path}" in str(caught.value)
        assert read_evaluation(run) is None
        ledger = run.ledger()
        for _ in range(ledger.planned):
            ledger.prune(ledger.ask(sampler_for(finished.plan.config)).number)
        with pytest.raises(RunError, match="No trial of empty is complete") as caught:
            evaluate_run(run, finished.plan, finished.dataset, finished.taught, Request(2))
        assert f"pkdray resume {run.path} --trials 6" in str(caught.value)


def test_without_a_shared_training_there_is_no_comparison_and_the_words_say_so(evaluated) -> None:
    """A comparison of other methods may then be the first of them."""
    _, evaluation = evaluated
    assert against_bound(evaluation) == evaluation["comparisons"][0]
    assert verdict(evaluation) == evaluation["comparisons"][0]["sentence"]
    other = evaluation["comparisons"][0] | {"method": "kl"}
    for left in ([], [other]):
        assert against_bound(evaluation | {"comparisons": left}) is None
        assert verdict(evaluation | {"comparisons": left}).startswith(
            "The student and the lower bound share no training"
        )


def test_nothing_before_the_evaluation_knows_the_test_labels(finished) -> None:
    assert set(study_arrays(finished.plan, finished.dataset, finished.pool)) == {"train", "val"}
    rows = finished.dataset.rows("test")
    ids = finished.dataset.samples["sample_id"].iloc[rows].tolist()
    said = finished.pool.load_embeddings(finished.plan, ids)["joint"]
    assert np.isnan(said.loss).all()
    assert np.isnan(said.gamma).all()
    assert not (finished.run.best / "predictions.test.parquet").exists()
