"""The objective of each method, against float64 numpy, from its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.config import METHODS
from pkdray.losses.objective import StudentRows, TeacherRows, build_objective, hyperparameters
from pkdray.losses.transport import pkdot_loss

ROWS, WIDTH, CLASSES, TEACHERS = 13, 7, 5, 3


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

    def run(self, name: str, **fields) -> tuple[float, dict[str, float]]:
        method = METHODS[name](name=name, **fields)
        student = self.student()
        loss, parts = build_objective(method, self.task)(student, self.teachers(), hyperparameters(method))
        return loss.item(), {part: value.item() for part, value in parts.items()}

    # What follows is the reference: float64, no torch, none of pkdray's own functions.

    def weights(self, selection: str) -> np.ndarray:
        if selection == "uniform":
            return np.full((TEACHERS, ROWS), 1 / TEACHERS)
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


@pytest.fixture(params=["classification", "regression"])
def case(request) -> Case:
    return Case(request.param)


def test_supervised_is_the_label_loss_and_needs_no_teacher(case):
    method = METHODS["supervised"](name="supervised")
    loss, parts = build_objective(method, case.task)(case.student(), None, hyperparameters(method))
    assert loss.item() == pytest.approx(case.label_loss(), rel=1e-5)
    assert {name: value.item() for name, value in parts.items()} == {"task": loss.item()}


@pytest.mark.parametrize("selection", ["batch", "sample", "uniform"])
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


@pytest.mark.parametrize("selection", ["batch", "sample", "uniform"])
def test_pkd(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("pkd", alpha=0.2, selection=selection)
    assert parts["distillation"] == pytest.approx(case.cosine(embedding), rel=1e-5)
    assert loss == pytest.approx(0.2 * case.cosine(embedding) + 0.8 * case.label_loss(), rel=1e-5)


@pytest.mark.parametrize("theta", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("selection", ["batch", "sample", "uniform"])
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
@pytest.mark.parametrize("selection", ["batch", "sample", "uniform"])
def test_pkdot(case, selection, anchors):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run("pkdot", alpha=0.6, epsilon=0.2, top_k=4, selection=selection, anchors=anchors)
    transport = case.transport(embedding, 0.2, 4, anchors)
    assert transport > 0.01
    assert parts["transport"] == pytest.approx(transport, rel=1e-3)
    assert loss == pytest.approx(case.label_loss() + 0.6 * transport, rel=1e-4)


@pytest.mark.parametrize("selection", ["batch", "sample", "uniform"])
def test_mt_pkdot(case, selection):
    embedding, _, _ = case.selected(selection)
    loss, parts = case.run(
        "mt-pkdot", task_weight=0.7, alpha=0.25, centroid_weight=0.4, epsilon=0.2, top_k=4, selection=selection
    )
    own, theirs = unit(case.embedding), unit(embedding)
    centroid = np.linalg.norm((own @ own.T).mean(axis=0) - (theirs @ theirs.T).mean(axis=0))
    transport = case.transport(embedding, 0.2, 4)
    assert parts["centroid"] == pytest.approx(centroid, rel=1e-5)
    assert loss == pytest.approx(0.7 * case.label_loss() + 0.25 * transport + 0.4 * centroid, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "supervised"])
@pytest.mark.parametrize("selection", ["batch", "sample", "uniform"])
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
    name=st.sampled_from(["kl", "pkd", "pkdot", "mt-pkdot"]),
    selection=st.sampled_from(["batch", "sample", "uniform"]),
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
        ("pkdot", {}),
        ("mt-pkdot", {}),
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


@pytest.mark.parametrize("name", [name for name in METHODS if name != "supervised"])
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
