"""Students: every method learns, the same seed gives the same student, T-Nets are shared, lanes are stacked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from pkdray.embeddings import Rows
from pkdray.losses.objective import hyperparameters
from pkdray.training import students
from pkdray.training.inputs import as_rows
from pkdray.training.metrics import evaluate
from pkdray.training.students import (
    fresh_student,
    predict_rows,
    student_identity,
    student_step,
    tnet_identity,
    train_student,
    uses_tnet,
)

METHODS: list[dict[str, Any]] = [
    {"name": "supervised"},
    {"name": "kl"},
    {"name": "kl", "theta": 0.8},
    {"name": "hint"},
    {"name": "pkd"},
    {"name": "pkd", "theta": 0.8},
    {"name": "sp", "alpha": 300.0},
    {"name": "rkd", "distance_weight": 5.0, "angle_weight": 10.0},
    {"name": "cc", "alpha": 20.0},
    {"name": "crd"},
    {"name": "pkdot", "top_k": 5},
    {"name": "mt-pkdot", "top_k": 5, "selection": "sample"},
    {"name": "hint", "alpha": "learned"},
    {"name": "crd", "alpha": "learned", "theta": 0.8, "selection": "confidence"},
    {"name": "mt-pkdot", "alpha": "learned", "top_k": 5, "selection": "uniform"},
]


def label(method: dict[str, Any]) -> str:
    learned = "-learned" if method.get("alpha") == "learned" else ""
    return method["name"] + learned + ("-gated" if "theta" in method else "")


@pytest.fixture
def world(small_dataset, plan, taught, student_arrays):
    def make(task="classification", kind="vectors", **overrides):
        dataset = small_dataset(task, kind)
        study = plan(dataset, overrides)
        pool = taught(study, dataset)
        return study, student_arrays(study, dataset, pool)

    return make


def assert_same(one, other) -> None:
    assert one.history == other.history
    assert one.best == other.best
    weights = other.model.state_dict()
    assert one.model.state_dict().keys() == weights.keys()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(("task", "kind", "encoder"), [
    ("classification", "vectors", "mlp"),
    ("classification", "sequences", "gru"),
    ("regression", "sequences", "mlp"),
    ("regression", "frames", "gru"),
])  # fmt: skip
def test_every_method_learns(world, task, kind, encoder):
    plan, arrays = world(
        task,
        kind,
        **{"student.encoder.kind": encoder, "teachers.training.epochs": 12, "training.epochs": 10},
    )
    for method in METHODS:
        if method["name"] == "kl" and task == "regression":
            continue
        config = plan.trial_config({f"method.{name}": value for name, value in method.items()})
        fitted = train_student(plan, config, arrays, seed=5)
        first, last = fitted.history[0], fitted.history[-1]
        assert last["train/loss"] < first["train/loss"], label(method)
        # The face alone says little; chance is 1/4 for four classes and 0 for a concordance.
        assert fitted.best[plan.metric.name] > 0.33, label(method)
        shares = [last[f"train/teacher/{name}"] for name in plan.teachers_of(config)]
        assert sum(shares) == pytest.approx(1 if shares else 0), label(method)
        if method.get("alpha") == "learned":
            assert last["train/weight/task"] != first["train/weight/task"], label(method)
        else:
            weights = {name: value for name, value in last.items() if name.startswith("train/weight/")}
            weighed = sum(value * last[name.replace("weight/", "")] for name, value in weights.items())
            assert last["train/loss"] == pytest.approx(weighed, rel=1e-3), label(method)
        # What is reported is what the returned student does.
        val = arrays["val"]
        said = fitted.model({"face": torch.from_numpy(val["input.face"])}).prediction
        target = as_rows(torch.from_numpy(val["target"]), 0 if task == "classification" else 1)
        found = evaluate(as_rows(said, 1), target, task)
        assert found == pytest.approx({name: fitted.best[name] for name in found}, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "tnet"),
    [(method, "frozen") for method in METHODS]
    + [(method, tnet) for method in METHODS[2::4] for tnet in ("none", "joint")],
    ids=lambda value: label(value) if isinstance(value, dict) else value,
)
def test_the_same_seed_is_the_same_student(world, method, tnet):
    plan, arrays = world(
        **{f"method.{name}": value for name, value in method.items()}, **{"student.tnet.training": tnet}
    )
    kept = copy.deepcopy(arrays)
    torch.manual_seed(1)
    first = train_student(plan, plan.config, arrays, seed=5)
    torch.manual_seed(2)
    assert_same(train_student(plan, plan.config, arrays, seed=5), first)
    assert train_student(plan, plan.config, arrays, seed=6).history != first.history
    for split, named in arrays.items():
        for name, values in named.items():
            np.testing.assert_array_equal(values, kept[split][name])


@pytest.mark.parametrize("alpha", [0.6, "learned"])
def test_an_interrupted_student_is_continued(world, tmp_path: Path, alpha):
    plan, arrays = world(**{"training.epochs": 6, "training.checkpoint_every": 2, "method.alpha": alpha})

    def interrupt(metrics):
        if metrics["epoch"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_student(plan, plan.config, arrays, seed=5, folder=tmp_path, report=interrupt)
    epochs: list[float] = []
    continued = train_student(
        plan, plan.config, arrays, seed=5, folder=tmp_path, report=lambda entry: epochs.append(entry["epoch"])
    )
    assert epochs == [5, 6]
    assert_same(continued, train_student(plan, plan.config, arrays, seed=5))


def test_a_shared_tnet_gives_the_same_student_as_its_own(world, tmp_path: Path, monkeypatch):
    # Clipped so tightly that a gradient too many in the norm would be felt.
    plan, arrays = world(**{"training.gradient_clip": 0.05})
    own = train_student(plan, plan.config, arrays, seed=5)
    assert_same(train_student(plan, plan.config, arrays, seed=5, tnets=tmp_path / "tnets"), own)
    assert [path.name for path in (tmp_path / "tnets").iterdir()] == [
        f"{tnet_identity(plan, plan.config, 5)}.safetensors"
    ]
    trained: list[int] = []
    fit_tnet = students.fit_tnet
    monkeypatch.setattr(students, "fit_tnet", lambda *args, **kw: trained.append(1) or fit_tnet(*args, **kw))
    assert_same(train_student(plan, plan.config, arrays, seed=5, tnets=tmp_path / "tnets"), own)
    # Another method asks for the same T-Net; another seed does not.
    other = plan.trial_config({"method.name": "supervised"})
    train_student(plan, other, arrays, seed=5, tnets=tmp_path / "tnets")
    assert not trained
    train_student(plan, plan.config, arrays, seed=6, tnets=tmp_path / "tnets")
    assert trained


@pytest.mark.parametrize("keep", [0, 100, -9])
def test_a_damaged_shared_tnet_is_replaced(world, tmp_path: Path, keep):
    plan, arrays = world()
    own = train_student(plan, plan.config, arrays, seed=5, tnets=tmp_path / "tnets")
    (path,) = (tmp_path / "tnets").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert_same(train_student(plan, plan.config, arrays, seed=5, tnets=tmp_path / "tnets"), own)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ({"method.name": "supervised"}, True),
        ({"training.learning_rate": 0.5}, True),
        ({"student.fusion": "gated"}, True),
        ({"student.encoder.hidden": [12]}, False),
        ({"student.tnet.hidden": [12]}, False),
        ({"student.tnet.fit.epochs": 4}, False),
    ],
    ids=str,
)
def test_a_tnet_is_shared_where_it_would_be_the_same(small_dataset, plan, overrides, same):
    study = plan(small_dataset())
    other = study.trial_config(overrides)
    assert (tnet_identity(study, other, 5) == tnet_identity(study, study.config, 5)) == same
    assert tnet_identity(study, other, 6) != tnet_identity(study, other, 5)


def test_a_frozen_tnet_hallucinates_better_than_the_mean_and_stays_as_fitted(world, tmp_path: Path):
    plan, arrays = world(**{"student.tnet.fit.epochs": 20, "training.learning_rate": 0.1})
    fitted = train_student(plan, plan.config, arrays, seed=5, tnets=tmp_path / "tnets")
    val = arrays["val"]
    said = fitted.model({"face": torch.from_numpy(val["input.face"])}).hallucinated.detach().numpy()
    mean = arrays["train"]["privileged"].mean(axis=0)
    assert np.square(said - val["privileged"]).mean() < 0.95 * np.square(mean - val["privileged"]).mean()
    (path,) = (tmp_path / "tnets").iterdir()
    shared = students.load_tensors(path)[0]
    for name, value in fitted.model.tnet.state_dict().items():
        assert torch.equal(value, shared[name])
    assert "train/tnet" not in fitted.history[0]


def test_a_joint_tnet_is_regressed_while_the_student_trains(world, tmp_path: Path):
    plan, arrays = world(**{"student.tnet.training": "joint", "training.epochs": 12, "student.tnet.weight": 0.5})
    fitted = train_student(plan, plan.config, arrays, seed=5, tnets=tmp_path / "tnets")
    first, last = fitted.history[0], fitted.history[-1]
    assert last["train/tnet"] < first["train/tnet"]
    expected = last["train/task"] + 0.6 * last["train/transport"] + 0.5 * last["train/tnet"]
    assert last["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert last["train/weight/tnet"] == 0.5
    assert not (tmp_path / "tnets").exists()


def test_no_tnet_where_none_is_asked_for_or_nothing_is_privileged(world):
    plan, arrays = world(**{"student.tnet.training": "none"})
    assert not uses_tnet(plan, plan.config)
    assert train_student(plan, plan.config, arrays, seed=5).model.tnet is None
    plan, arrays = world(**{"teachers.pool": [{"name": "joint", "modalities": ["face"]}]})
    assert not uses_tnet(plan, plan.config)
    assert train_student(plan, plan.config, arrays, seed=5).model.tnet is None


def test_the_labels_alone_need_no_teachers_arrays(world):
    plan, arrays = world(**{"method.name": "supervised", "student.tnet.training": "none"})
    bare = {split: {name: named[name] for name in ("input.face", "target")} for split, named in arrays.items()}
    assert_same(train_student(plan, plan.config, bare, seed=5), train_student(plan, plan.config, arrays, seed=5))


@pytest.mark.parametrize("alpha", [0.6, "learned"])
def test_a_trained_student_fits_a_fresh_one(world, alpha):
    plan, arrays = world(**{"method.alpha": alpha})
    fitted = train_student(plan, plan.config, arrays, seed=5)
    again = fresh_student(plan, plan.config)
    again.load_state_dict(fitted.model.state_dict())
    rows = Rows({"input.face": arrays["val"]["input.face"]})
    assert torch.equal(predict_rows(again, rows, ["face"]), predict_rows(fitted.model, rows, ["face"]))


def test_predictions_do_not_depend_on_how_rows_are_batched(world):
    plan, arrays = world("regression", "frames")
    student = fresh_student(plan, plan.config).train()
    rows = Rows({"input.face": arrays["train"]["input.face"]})
    whole = predict_rows(student, rows, ["face"])
    assert whole.shape == (85, 6, 2)
    torch.testing.assert_close(predict_rows(student, rows, ["face"], batch_size=13), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ({"method.alpha": 0.5}, False),
        ({"training.epochs": 4}, False),
        ({"student.fusion": "gated"}, False),
        ({"method.alpha": "learned"}, False),
        ({"search.trials": 3}, True),
        ({"resources.max_failures": 5}, True),
    ],
    ids=str,
)
def test_what_makes_two_trainings_the_same(small_dataset, plan, overrides, same):
    study = plan(small_dataset())
    other = study.trial_config(overrides)
    assert (student_identity(study, other, 5) == student_identity(study, study.config, 5)) == same
    assert student_identity(study, other, 6) != student_identity(study, other, 5)


def test_another_task_loss_is_another_student(small_dataset, plan):
    one, other = plan(small_dataset()), plan(small_dataset(), {"task_loss": "ordinal"})
    assert student_identity(one, one.config, 5) != student_identity(other, other.config, 5)


@pytest.mark.parametrize(("task", "name"), [("classification", "ordinal"), ("regression", "mse")])
def test_teachers_and_students_train_with_the_task_loss_that_is_named(world, task, name):
    fields = {"method.name": "pkd", "teachers.training.epochs": 12, "training.epochs": 10}
    plan, arrays = world(task, **fields, task_loss=name)
    fitted = train_student(plan, plan.config, arrays, seed=5)
    assert fitted.best[plan.metric.name] > 0.33
    default, others = world(task, **fields)
    assert not np.array_equal(arrays["train"]["joint.embedding"], others["train"]["joint.embedding"])
    # On the same teachers, too, the student is another one.
    assert train_student(default, default.config, arrays, seed=5).history[0] != fitted.history[0]


@pytest.mark.parametrize(
    ("task", "kind", "method"),
    [
        (task, kind, method)
        for task, kind in (("classification", "vectors"), ("regression", "frames"))
        for method in METHODS
        # A regression has no class probabilities.
        if task == "classification" or method["name"] != "kl"
    ],
)
def test_one_step_of_stacked_students_is_a_loop_of_singles(world, task, kind, method):
    plan, arrays = world(
        task,
        kind,
        **{f"method.{name}": value for name, value in method.items()},
        **{"student.encoder.dropout": 0.0, "student.tnet.training": "joint"},
    )
    config = plan.config
    step = student_step(plan, config)
    batch = Rows(arrays["train"]).take(torch.arange(3, 20))
    lanes = []
    for seed in range(3):
        torch.manual_seed(seed)
        lanes.append(fresh_student(plan, config))
    shared = hyperparameters(config.method)
    alphas = torch.tensor([0.15, 0.5, 0.85])
    stacked = {name: value.detach().expand(3, *value.shape) for name, value in shared.items()}
    if "alpha" in shared and config.method.name != "sp":
        stacked["alpha"] = alphas
    skeleton = copy.deepcopy(lanes[0]).to("meta")

    def loss(parameters, hparams):
        return step(lambda inputs: functional_call(skeleton, parameters, (inputs,)), batch, hparams)

    parameters, _ = stack_module_state(lanes)
    gradients, (values, parts) = vmap(grad_and_value(loss, has_aux=True))(parameters, stacked)
    assert len({round(value, 4) for value in values.tolist()}) == 3
    for lane, student in enumerate(lanes):
        hparams = {name: value[lane] for name, value in stacked.items()}
        alone, alone_parts = step(student, batch, hparams)
        alone.backward()
        torch.testing.assert_close(values[lane], alone.detach(), rtol=1e-4, atol=1e-5)
        for name, part in alone_parts.items():
            torch.testing.assert_close(parts[name][lane], part.detach(), rtol=1e-3, atol=1e-5)
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(gradients[name][lane], parameter.grad, rtol=2e-3, atol=2e-5, msg=name)
