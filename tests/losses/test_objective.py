"""The objective of each method, against float64 numpy, from its parts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.config import METHODS, TASK_LOSSES
from pkdray.losses.objective import StudentRows, TeacherRows, build_objective, hyperparameters
from pkdray.losses.terms import POINT_TERMS, STRUCTURES, TASK_TERMS
from pkdray.losses.transport import pkdot_loss

ROWS, WIDTH, CLASSES, TEACHERS = 13, 7, 5, 3
SELECTIONS = ("batch", "sample", "uniform", "confidence")
POINT = ("kl", "hint", "pkd", "crd")
DISTILLING = [name for name in METHODS if name != "supervised"]
FIELDS = {"kl": {"temperature": 2.5}, "crd": {"temperature": 0.4}, "pkdot": {"top_k": 4}, "mt-pkdot": {"top_k": 4}}
"""Distilling methods with something to tell apart in a batch of 13."""


class Case:
    """Rows of a student and of three teachers, as tensors and as float64."""

    def __init__(self, task: str, seed: int = 5) -> None:
        rng = np.random.default_rng(seed)
        self.task = task
        self.embedding = rng.normal(size=(ROWS, WIDTH))
        self.prediction = rng.normal(size=(ROWS, CLASSES))
        self.target = rng.integers(0, CLASSES, ROWS) if task == "classification" else rng.normal(size=(ROWS, CLASSES))
        self.teacher_embedding = rng.normal(size=(TEACHERS, ROWS, WIDTH))
        self.teacher_prediction = rng.normal(size=(TEACHERS, ROWS, CLASSES))
        self.loss = rng.uniform(0.1, 2, size=(TEACHERS, ROWS))
        self.gamma = rng.uniform(0, 1, size=(TEACHERS, ROWS))

    def student(self) -> StudentRows:
        target = torch.from_numpy(self.target)
        if self.task == "regression":
            target = target.float()
        return StudentRows(
            torch.tensor(self.embedding, dtype=torch.float32, requires_grad=True),
            torch.tensor(self.prediction, dtype=torch.float32, requires_grad=True),
            target,
        )

    def teachers(self) -> TeacherRows:
        arrays = (self.teacher_embedding, self.teacher_prediction, self.loss, self.gamma)
        return TeacherRows(*(torch.tensor(array, dtype=torch.float32) for array in arrays))

    def run(self, name: str, more=None, label_loss=None, **fields) -> tuple[float, dict[str, float]]:
        method = METHODS[name](name=name, **fields)
        objective = build_objective(method, self.task, label_loss)
        loss, parts = objective(self.student(), self.teachers(), hyperparameters(method) | (more or {}))
        return loss.item(), {part: value.item() for part, value in parts.items()}

    # What follows is the reference: float64, no torch, none of pkdray's own functions.

    def weights(self, selection: str) -> np.ndarray:
        if selection == "uniform":
            return np.full((TEACHERS, ROWS), 1 / TEACHERS)
        if selection == "confidence":
            return np.exp(-self.loss) / np.exp(-self.loss).sum(axis=0)
        best = self.loss.mean(axis=1).argmin() if selection == "batch" else self.loss.argmin(axis=0)
        return (np.arange(TEACHERS)[:, None] == best).astype(float) * np.ones((TEACHERS, ROWS))

    def selected(self, selection: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights = self.weights(selection)
        return (
            (weights[..., None] * self.teacher_embedding).sum(axis=0),
            (weights[..., None] * self.teacher_prediction).sum(axis=0),
            (weights * self.gamma).sum(axis=0),
        )

    def label_loss(self, weight: np.ndarray | None = None) -> float:
        weight = np.ones(ROWS) if weight is None else weight
        if self.task == "classification":
            return float(-(weight * np.log(softmax(self.prediction))[np.arange(ROWS), self.target]).mean())
        x, y = self.prediction, self.target
        covariance = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).mean(axis=0)
        rho = 2 * covariance / (x.var(axis=0) + y.var(axis=0) + (x.mean(axis=0) - y.mean(axis=0)) ** 2)
        return float(weight.mean() * (1 - rho).mean())

    def label_loss_named(self, name: str, weight: np.ndarray) -> float:
        if name in ("cross_entropy", "ccc"):
            return self.label_loss(weight)
        if name == "mse":
            return float((weight[:, None] * (self.prediction - self.target) ** 2).mean())
        # P(y > k), from the probabilities of the classes.
        above = 1 - softmax(self.prediction).cumsum(axis=1)[:, :-1]
        is_above = self.target[:, None] > np.arange(CLASSES - 1)
        return float((weight * -np.log(np.where(is_above, above, 1 - above)).sum(axis=1)).mean())

    def hint(self, teacher: np.ndarray, weight: np.ndarray | float = 1.0) -> float:
        return float((weight * ((self.embedding - teacher) ** 2).mean(axis=1)).mean())

    def contrast(self, teacher: np.ndarray, temperature: float, weight: np.ndarray | float = 1.0) -> float:
        logits = unit(self.embedding) @ unit(teacher).T / temperature
        return float((weight * -np.log(np.diag(softmax(logits)))).mean())

    def similarity(self, teacher: np.ndarray) -> float:
        own, theirs = (unit(rows @ rows.T) for rows in (self.embedding, teacher))
        return float(((own - theirs) ** 2).sum() / ROWS**2)

    def correlation(self, teacher: np.ndarray, gamma: float, order: int) -> float:
        def kernel(rows: np.ndarray) -> np.ndarray:
            cosines = unit(rows) @ unit(rows).T
            series = [(2 * gamma * cosines) ** p / math.factorial(p) for p in range(order + 1)]
            return np.exp(-2 * gamma) * sum(series)

        return float(((kernel(self.embedding) - kernel(teacher)) ** 2).mean())

    def distances(self, teacher: np.ndarray) -> float:
        def relative(rows: np.ndarray) -> np.ndarray:
            found = np.array([np.linalg.norm(a - b) for a, b in itertools.permutations(rows, 2)])
            return found / found.mean()

        return float(huber(relative(self.embedding) - relative(teacher)).mean())

    def angles(self, teacher: np.ndarray) -> float:
        def cosines(rows: np.ndarray) -> np.ndarray:
            sides = ((a - b, c - b) for a, b, c in itertools.permutations(rows, 3))
            return np.array([one @ two / np.linalg.norm(one) / np.linalg.norm(two) for one, two in sides])

        return float(huber(cosines(self.embedding) - cosines(teacher)).mean())

    def centroid(self, teacher: np.ndarray) -> float:
        own, theirs = (unit(rows) @ unit(rows).T for rows in (self.embedding, teacher))
        return float(np.linalg.norm(own.mean(axis=0) - theirs.mean(axis=0)))

    def cosine(self, teacher: np.ndarray, weight: np.ndarray | None = None) -> float:
        distances = 1 - (unit(self.embedding) * unit(teacher)).sum(axis=1)
        return float((distances * (1 if weight is None else weight)).mean())

    def divergence(self, teacher: np.ndarray, temperature: float, weight: np.ndarray | None = None) -> float:
        p, q = softmax(teacher / temperature), softmax(self.prediction / temperature)
        rows = (p * np.log(p / q)).sum(axis=1)
        return float(temperature**2 * (rows * (1 if weight is None else weight)).mean())

    def transport(self, teacher: np.ndarray, epsilon: float, top_k: int, anchors: str = "least_similar") -> float:
        return float(
            pkdot_loss(
                torch.from_numpy(self.embedding),
                torch.from_numpy(teacher),
                epsilon=epsilon,
                top_k=top_k,
                anchors=anchors,  # type: ignore[arg-type]
            )
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def huber(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) <= 1, values**2 / 2, np.abs(values) - 0.5)


@pytest.fixture(params=["classification", "regression"])
def case(request) -> Case:
    return Case(request.param)


def test_supervised_is_the_label_loss_and_needs_no_teacher(case):
    method = METHODS["supervised"](name="supervised")
    loss, parts = build_objective(method, case.task)(case.student(), None, hyperparameters(method))
    assert loss.item() == pytest.approx(case.label_loss(), rel=1e-5)
    assert {name: value.item() for name, value in parts.items()} == {"task": loss.item(), "weight/task": 1}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 3.5])
def test_kl(selection, temperature):
    case = Case("classification")
    _, prediction, _ = case.selected(selection)
    loss, parts = case.run("kl", alpha=0.3, temperature=temperature, selection=selection)
    divergence = case.divergence(prediction, temperature)
    assert parts["distillation"] == pytest.approx(divergence, rel=1e-5)
    assert parts["task"] == pytest.approx(case.label_loss(), rel=1e-5)
    assert loss == pytest.approx(0.3 * divergence + 0.7 * case.label_loss(), rel=1e-5)


@pytest.mark.parametrize("theta", [0.0, 0.45, 1.0])
def test_kl_with_the_gate(theta):
    case = Case("classification")
    _, prediction, gamma = case.selected("sample")
    keep, beta = gamma <= theta, np.where(gamma <= theta, gamma, 1)
    loss, parts = case.run("kl", alpha=0.3, temperature=2.5, theta=theta, selection="sample")
    expected = 0.3 * case.divergence(prediction, 2.5, keep) + case.label_loss(beta)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert parts["gate_open"] == pytest.approx(keep.mean())


@pytest.mark.parametrize("selection", SELECTIONS)
def test_pkd(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("pkd", alpha=0.2, selection=selection)
    assert parts["distillation"] == pytest.approx(case.cosine(embedding), rel=1e-5)
    assert loss == pytest.approx(0.2 * case.cosine(embedding) + 0.8 * case.label_loss(), rel=1e-5)


@pytest.mark.parametrize("theta", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_pkd_with_the_gate(case, selection, theta):
    embedding, _, gamma = case.selected(selection)
    keep, beta = gamma <= theta, np.where(gamma <= theta, gamma, 1)
    loss, parts = case.run("pkd", alpha=0.2, theta=theta, selection=selection)
    assert parts["distillation"] == pytest.approx(case.cosine(embedding, keep), rel=1e-5, abs=1e-7)
    assert parts["task"] == pytest.approx(case.label_loss(beta), rel=1e-5)
    assert loss == pytest.approx(0.2 * case.cosine(embedding, keep) + case.label_loss(beta), rel=1e-5)
    assert parts["gate_open"] == pytest.approx(keep.mean())


def test_a_closed_gate_leaves_the_labels_alone(case):
    case.gamma += 0.5
    loss, parts = case.run("pkd", alpha=0.9, theta=0.2)
    assert loss == pytest.approx(case.label_loss(), rel=1e-5)
    assert parts["gate_open"] == 0
    assert parts["distillation"] == 0


@pytest.mark.parametrize("anchors", ["least_similar", "most_similar"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_pkdot(case, selection, anchors):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("pkdot", alpha=0.6, epsilon=0.2, top_k=4, selection=selection, anchors=anchors)
    transport = case.transport(embedding, 0.2, 4, anchors)
    assert transport > 0.01
    assert parts["transport"] == pytest.approx(transport, rel=1e-3)
    assert loss == pytest.approx(case.label_loss() + 0.6 * transport, rel=1e-4)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_mt_pkdot(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run(
        "mt-pkdot", task_weight=0.7, alpha=0.25, centroid_weight=0.4, epsilon=0.2, top_k=4, selection=selection
    )
    centroid, transport = case.centroid(embedding), case.transport(embedding, 0.2, 4)
    assert parts["centroid"] == pytest.approx(centroid, rel=1e-5)
    assert loss == pytest.approx(0.7 * case.label_loss() + 0.25 * transport + 0.4 * centroid, rel=1e-4)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_hint(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("hint", alpha=0.35, selection=selection)
    assert parts["distillation"] == pytest.approx(case.hint(embedding), rel=1e-5)
    assert loss == pytest.approx(0.35 * case.hint(embedding) + 0.65 * case.label_loss(), rel=1e-5)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_crd(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("crd", alpha=0.35, temperature=0.3, selection=selection)
    assert parts["distillation"] == pytest.approx(case.contrast(embedding, 0.3), rel=1e-5)
    assert loss == pytest.approx(0.35 * case.contrast(embedding, 0.3) + 0.65 * case.label_loss(), rel=1e-5)


@pytest.mark.parametrize("name", ["hint", "crd"])
def test_the_gate_weighs_every_point_method_row_by_row(case, name):
    embedding, _, gamma = case.selected("sample")
    keep, beta = gamma <= 0.45, np.where(gamma <= 0.45, gamma, 1)
    loss, parts = case.run(name, alpha=0.35, theta=0.45, selection="sample", **FIELDS.get(name, {}))
    distance = case.hint(embedding, keep) if name == "hint" else case.contrast(embedding, 0.4, keep)
    assert 0 < keep.mean() < 1
    assert loss == pytest.approx(0.35 * distance + case.label_loss(beta), rel=1e-5)
    assert (parts["weight/task"], parts["weight/distillation"]) == pytest.approx((1, 0.35))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_sp(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("sp", alpha=20, selection=selection)
    assert parts["similarity"] == pytest.approx(case.similarity(embedding), rel=1e-5)
    assert loss == pytest.approx(case.label_loss() + 20 * case.similarity(embedding), rel=1e-5)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_rkd(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("rkd", distance_weight=3, angle_weight=7, selection=selection)
    distances, angles = case.distances(embedding), case.angles(embedding)
    assert parts["distance"] == pytest.approx(distances, rel=1e-4)
    assert parts["angle"] == pytest.approx(angles, rel=1e-4)
    assert loss == pytest.approx(case.label_loss() + 3 * distances + 7 * angles, rel=1e-4)


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.9, 3)])
def test_cc(case, gamma, order):
    embedding, _, _ = case.selected("batch")
    loss, parts = case.run("cc", alpha=20, gamma=gamma, order=order)
    assert parts["correlation"] == pytest.approx(case.correlation(embedding, gamma, order), rel=1e-4)
    assert loss == pytest.approx(case.label_loss() + 20 * case.correlation(embedding, gamma, order), rel=1e-4)


def test_every_method_and_every_task_loss_has_its_terms():
    assert {METHODS[name] for name in DISTILLING} == POINT_TERMS.keys() | STRUCTURES.keys()
    assert {METHODS[name] for name in POINT} == POINT_TERMS.keys()
    assert not POINT_TERMS.keys() & STRUCTURES.keys()
    assert {name for names in TASK_LOSSES.values() for name in names} == TASK_TERMS.keys()


@pytest.mark.parametrize("theta", [None, 0.4])
@pytest.mark.parametrize("name", DISTILLING)
def test_the_loss_is_its_parts_times_their_weights(name, theta):
    fields = FIELDS.get(name, {}) | ({"theta": theta} if name in POINT else {})
    loss, parts = Case("classification").run(name, selection="confidence", **fields)
    weights = {part.removeprefix("weight/"): value for part, value in parts.items() if part.startswith("weight/")}
    assert loss == pytest.approx(sum(weight * parts[part] for part, weight in weights.items()), rel=1e-5)
    assert len(weights) == 1 + (1 if name in POINT else len(STRUCTURES[METHODS[name]]))
    extra = {part.split("/")[0] for part in parts} - weights.keys() - {"weight", "teacher"}
    assert extra == ({"gate_open"} if name in POINT and theta is not None else set())


# What the labels are worth


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, names in TASK_LOSSES.items() for name in (*names, None)]
)
def test_the_task_loss_is_the_one_that_is_named(task, name):
    case = Case(task)
    expected = case.label_loss_named(name or TASK_LOSSES[task][0], np.ones(ROWS))
    loss, _ = case.run("supervised", label_loss=name)
    assert loss == pytest.approx(expected, rel=1e-5)
    loss, parts = case.run("pkdot", label_loss=name, top_k=4)
    assert parts["task"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "ordinal", "mse", "ccc"])
def test_the_gate_weighs_the_rows_of_every_task_loss(name):
    case = Case("classification" if name in TASK_LOSSES["classification"] else "regression")
    _, _, gamma = case.selected("sample")
    beta = np.where(gamma <= 0.45, gamma, 1)
    _, parts = case.run("pkd", theta=0.45, selection="sample", label_loss=name)
    assert parts["task"] == pytest.approx(case.label_loss_named(name, beta), rel=1e-5)


# A mask over the pool

MASKS = [[True, False, True], [False, True, False], [True, True, True]]


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", DISTILLING)
def test_a_masked_pool_is_the_pool_without_the_masked(name, selection, mask):
    case = Case("classification")
    fields = FIELDS.get(name, {}) | {"selection": selection} | ({"theta": 0.5} if name == "pkd" else {})
    kept = [index for index, there in enumerate(mask) if there]
    # What a masked teacher says must not matter, not even where it is the best one or says nothing at all.
    for index in set(range(TEACHERS)) - set(kept):
        case.loss[index] = 0.0
        case.teacher_embedding[index] = case.teacher_prediction[index] = case.gamma[index] = np.nan
    method = METHODS[name](name=name, **fields)
    objective = build_objective(method, "classification")
    hparams = hyperparameters(method)
    whole, alone = case.student(), case.student()
    subset = TeacherRows(*(value[kept] for value in case.teachers()))
    loss, parts = objective(whole, case.teachers(), {**hparams, "teacher_mask": torch.tensor(mask)})
    expected, others = objective(alone, subset, hparams)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for part, value in parts.items():
        if not part.startswith("teacher/"):
            assert value.item() == pytest.approx(others[part].item(), rel=1e-6), part
    shares = [others[f"teacher/{kept.index(index)}"].item() if there else 0 for index, there in enumerate(mask)]
    assert [parts[f"teacher/{index}"].item() for index in range(TEACHERS)] == pytest.approx(shares)
    for one, other in zip(torch.autograd.grad(loss, whole[:2], allow_unused=True, materialize_grads=True),
                          torch.autograd.grad(expected, alone[:2], allow_unused=True, materialize_grads=True),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("alpha", ["fixed", "learned"])
@pytest.mark.parametrize("theta", [None, 0.4])
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", DISTILLING)
def test_with_everybody_masked_the_labels_are_left(name, selection, theta, alpha):
    if (theta is not None and name not in POINT) or (alpha == "learned" and name == "rkd"):
        return
    case = Case("classification")
    fields = FIELDS.get(name, {}) | {"selection": selection} | ({"theta": theta} if name in POINT else {})
    fields |= {"alpha": "learned"} if alpha == "learned" else {}
    method = METHODS[name](name=name, **fields)
    hparams = {**hyperparameters(method), "teacher_mask": torch.zeros(TEACHERS, dtype=torch.bool)}
    student = case.student()
    loss, parts = build_objective(method, "classification")(student, case.teachers(), hparams)
    assert parts["task"].item() == pytest.approx(case.label_loss(), rel=1e-6)
    for part, value in parts.items():
        if part not in ("task", "weight/task"):
            assert value.item() == 0, part
    loss.backward()
    assert student.prediction.grad.isfinite().all()
    assert student.embedding.grad is None or (student.embedding.grad == 0).all()
    if alpha == "learned":
        # A term that is not there pulls at no weight either.
        gradient = hparams["log_variances"].grad
        assert gradient[0] != 0
        assert (gradient[1:] == 0).all()
    else:
        assert parts["weight/task"].item() == pytest.approx(method.task_weight if name == "mt-pkdot" else 1)
        assert loss.item() == pytest.approx(parts["weight/task"].item() * case.label_loss(), rel=1e-6)


def test_a_row_that_no_teacher_knows_is_left_to_its_label():
    case = Case("classification")
    case.loss[:, 4] = np.nan
    loss, parts = case.run("pkd", alpha=0.25, selection="sample")
    rows = np.arange(ROWS) != 4
    embedding = case.teacher_embedding[np.where(rows, np.nan_to_num(case.loss).argmin(axis=0), 0), np.arange(ROWS)]
    share = 12 / 13
    assert parts["weight/task"] == pytest.approx(1 - 0.25 * share)
    expected = 0.25 * case.cosine(embedding, rows) + (1 - 0.25 * share) * case.label_loss()
    assert loss == pytest.approx(expected, rel=1e-5)


def lanes_and_loop(case, method, stacked):
    """The objective and its gradients of every lane at once, and one after the other."""
    objective = build_objective(method, case.task)
    student, teachers = case.student(), case.teachers()

    def loss(embedding, prediction, hparams):
        return objective(StudentRows(embedding, prediction, student.target), teachers, hparams)

    both = torch.func.grad_and_value(loss, argnums=(0, 1), has_aux=True)
    embedding, prediction = student.embedding.detach(), student.prediction.detach()
    at_once = torch.func.vmap(both, in_dims=(None, None, 0))(embedding, prediction, stacked)
    count = len(next(iter(stacked.values())))
    singly = [both(embedding, prediction, {name: value[i] for name, value in stacked.items()}) for i in range(count)]
    return at_once, singly


def assert_lanes(at_once, singly):
    gradients, (losses, parts) = at_once
    for lane, (gradient, (loss, own)) in enumerate(singly):
        torch.testing.assert_close(losses[lane], loss, rtol=1e-5, atol=1e-6)
        for part, value in own.items():
            torch.testing.assert_close(parts[part][lane], value, rtol=1e-4, atol=1e-6, msg=part)
        for one, other in zip(gradients, gradient, strict=True):
            torch.testing.assert_close(one[lane], other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", DISTILLING)
def test_lanes_may_have_masks_of_their_own(name, selection):
    case = Case("classification")
    method = METHODS[name](name=name, selection=selection, **FIELDS.get(name, {}))
    masks = torch.tensor([*MASKS, [False] * TEACHERS])
    stacked = {name: value.repeat(4) for name, value in hyperparameters(method).items()}
    at_once, singly = lanes_and_loop(case, method, {**stacked, "teacher_mask": masks})
    assert_lanes(at_once, singly)
    # The best teacher of a batch may be the same under two of the masks.
    assert len({round(loss, 5) for loss in at_once[1][0].tolist()}) >= 3


@pytest.mark.parametrize("name", [name for name in DISTILLING if name != "rkd"])
def test_lanes_may_learn_their_own_weights(case, name):
    if name == "kl" and case.task == "regression":
        return
    method = METHODS[name](name=name, alpha="learned", **FIELDS.get(name, {}))
    own = {name: value.detach() for name, value in hyperparameters(method).items()}
    stacked = {name: value.expand(3, *value.shape) for name, value in own.items()}
    spread = torch.linspace(-0.5, 0.7, 3 * len(own["log_variances"])).reshape(3, -1)
    assert_lanes(*lanes_and_loop(case, method, {**stacked, "log_variances": own["log_variances"] + spread}))


@pytest.mark.parametrize("anchors", ["least_similar", "most_similar"])
@pytest.mark.parametrize("name", ["pkdot", "mt-pkdot"])
def test_lanes_may_have_anchors_of_their_own(case, name, anchors):
    method = METHODS[name](name=name, anchors=anchors, top_k=3, epsilon=0.2)
    stacked = {name: value.repeat(3) for name, value in hyperparameters(method).items()}
    at_once, singly = lanes_and_loop(case, method, {**stacked, "top_k": torch.tensor([2, 5, 30])})
    assert_lanes(at_once, singly)
    embedding, _, _ = case.selected("batch")
    for lane, top_k in enumerate((2, 5, 30)):
        # The scalar overrides the method's own number, and more anchors than there are rows are all of them.
        expected = case.transport(embedding, 0.2, top_k, anchors)
        assert at_once[1][1]["transport"][lane].item() == pytest.approx(expected, rel=1e-3)


# Learned weights


@pytest.mark.parametrize(
    ("name", "fields", "starts"),
    [
        ("kl", {}, [0.3, 0.7]),
        ("pkd", {"preset": "faithful"}, [0.8, 0.2]),
        ("sp", {}, None),
        ("cc", {}, None),
        ("pkdot", {}, [1, 0.6]),
        ("mt-pkdot", {}, [0.8, 0.2, 0.2]),
        ("mt-pkdot", {"preset": "faithful"}, [0.8, 0.2]),
        ("mt-pkdot", {"task_weight": 2, "centroid_weight": 0.5}, [2, 0.2, 0.5]),
    ],
)
def test_learned_weights_start_at_the_fixed_ones(name, fields, starts):
    method = METHODS[name](name=name, alpha="learned", **fields)
    values = hyperparameters(method)
    assert values["log_variances"].requires_grad
    assert values["log_variances"].is_leaf
    assert "alpha" not in values
    starts = starts or [1, METHODS[name](name=name).alpha]
    assert values["log_variances"].neg().exp().tolist() == pytest.approx(starts, rel=1e-5)
    assert not any(value.requires_grad for name, value in values.items() if name != "log_variances")


@pytest.mark.parametrize("name", [name for name in DISTILLING if name != "rkd"])
def test_learned_weights_are_those_of_uncertainty(name):
    case = Case("classification")
    count = 3 if name == "mt-pkdot" else 2
    s = np.array([0.4, -0.9, 1.3])[:count]
    more = {"log_variances": torch.tensor(s, dtype=torch.float32)}
    loss, parts = case.run(name, more, alpha="learned", **FIELDS.get(name, {}))
    _, fixed = case.run(name, **FIELDS.get(name, {}))
    names = [part.removeprefix("weight/") for part in parts if part.startswith("weight/")]
    assert [parts[part] for part in names] == pytest.approx([fixed[part] for part in names])
    assert [parts[f"weight/{part}"] for part in names] == pytest.approx(np.exp(-s))
    assert loss == pytest.approx(sum(np.exp(-s) * [parts[part] for part in names] + s), rel=1e-5)


@pytest.mark.parametrize("name", POINT)
def test_learned_weights_with_the_gate(name):
    case = Case("classification")
    _, _, gamma = case.selected("sample")
    share = (gamma <= 0.45).mean()
    s = np.array([0.4, -0.9])
    more = {"log_variances": torch.tensor(s, dtype=torch.float32)}
    fields = {"theta": 0.45, "selection": "sample", **FIELDS.get(name, {})}
    loss, parts = case.run(name, more, alpha="learned", **fields)
    _, fixed = case.run(name, **fields)
    assert 0 < share < 1
    expected = np.exp(-s[0]) * fixed["task"] + s[0] + np.exp(-s[1]) * fixed["distillation"] + share * s[1]
    assert loss == pytest.approx(expected, rel=1e-5)
    assert parts["gate_open"] == pytest.approx(share)


@pytest.mark.parametrize("name", DISTILLING)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_shares_are_those_of_the_selection(name, selection):
    case = Case("classification")
    _, parts = case.run(name, selection=selection)
    shares = [parts[f"teacher/{index}"] for index in range(TEACHERS)]
    np.testing.assert_allclose(shares, case.weights(selection).mean(axis=1), rtol=1e-6)
    assert sum(shares) == pytest.approx(1)


# No deadline: the first example imports the transport solver.
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(DISTILLING),
    selection=st.sampled_from(SELECTIONS),
)
def test_the_shares_sum_to_one_whatever_the_losses(seed, name, selection):
    _, parts = Case("classification", seed).run(name, selection=selection)
    shares = [parts[f"teacher/{index}"] for index in range(TEACHERS)]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("supervised", {}),
        ("kl", {"theta": 0.6}),
        ("pkd", {}),
        ("pkd", {"theta": 0.6}),
        *((name, {}) for name in DISTILLING if name not in ("kl", "pkd")),
    ],
)
def test_gradients_reach_the_student_and_neither_losses_nor_gammas(name, fields):
    case = Case("classification")
    method = METHODS[name](name=name, **fields)
    student = case.student()
    teachers = TeacherRows(*(value.requires_grad_() for value in case.teachers()))
    loss, _ = build_objective(method, "classification")(student, teachers, hyperparameters(method))
    loss.backward()
    assert student.prediction.grad is not None
    assert student.prediction.grad.isfinite().all()
    if name not in ("supervised", "kl"):
        assert student.embedding.grad.abs().sum() > 0
    assert teachers.loss.grad is None
    assert teachers.gamma.grad is None


@pytest.mark.parametrize("name", DISTILLING)
def test_a_distilling_method_says_that_it_needs_a_teacher(name):
    method = METHODS[name](name=name)
    with pytest.raises(ValueError, match=f"method {name} needs the rows of at least one teacher"):
        build_objective(method, "classification")(Case("classification").student(), None, hyperparameters(method))


def test_hyperparameters_are_scalar_tensors_and_leave_out_what_has_no_value():
    method = METHODS["mt-pkdot"](name="mt-pkdot", alpha=1)
    values = hyperparameters(method)
    assert {name: float(value) for name, value in values.items()} == pytest.approx(
        {"task_weight": 0.8, "alpha": 1.0, "centroid_weight": 0.2, "epsilon": 0.1}
    )
    assert all(value.shape == () and value.dtype == torch.float32 for value in values.values())
    assert "theta" not in hyperparameters(METHODS["pkd"](name="pkd"))


@pytest.mark.parametrize("name", DISTILLING)
def test_what_is_not_given_is_the_methods_own(case, name):
    if name == "kl" and case.task == "regression":
        pytest.skip("kl needs classes")
    method = METHODS[name](name=name, **FIELDS.get(name, {}))
    objective = build_objective(method, case.task)
    expected, _ = objective(case.student(), case.teachers(), hyperparameters(method))
    found, _ = objective(case.student(), case.teachers(), {})
    torch.testing.assert_close(found, expected)


def test_a_learned_alpha_must_be_given(case):
    objective = build_objective(METHODS["pkd"](name="pkd", alpha="learned"), case.task)
    with pytest.raises(ValueError, match=r"method pkd has a learned alpha.*hyperparameters\(method\)"):
        objective(case.student(), case.teachers(), {})


@pytest.mark.parametrize("fields", [{"centroid_weight": 0.0}, {"preset": "faithful"}])
def test_learning_does_not_bring_a_term_of_weight_zero_back(case, fields):
    method = METHODS["mt-pkdot"](name="mt-pkdot", alpha="learned", top_k=4, **fields)
    hparams = hyperparameters(method)
    assert hparams["log_variances"].shape == (2,)
    _, parts = build_objective(method, case.task)(case.student(), case.teachers(), hparams)
    assert "centroid" not in parts
