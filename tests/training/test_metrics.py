"""Metrics against scikit-learn and numpy, on classes and targets in uneven shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from pkdray.training.metrics import METRICS, evaluate


def classified(seen: list[int], seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    target = rng.choice(seen, 43)
    logits = rng.normal(size=(43, 5)) + 1.5 * np.eye(5)[target]
    return torch.tensor(logits, dtype=torch.float32), torch.from_numpy(target)


@pytest.mark.parametrize("seen", [[0, 1, 2, 3, 4], [0, 0, 0, 0, 3, 4], [2]], ids=str)
def test_classification(seen):
    prediction, target = classified(seen)
    said, true = prediction.argmax(dim=1).numpy(), target.numpy()
    present = np.unique(true)
    expected = {
        "accuracy": reference.accuracy_score(true, said),
        "balanced_accuracy": np.mean([(said[true == index] == index).mean() for index in present]),
        "macro_f1": reference.f1_score(true, said, average="macro"),
    }
    assert evaluate(prediction, target, "classification") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_is_worth_nothing(task, value):
    prediction, target = classified([0, 1, 2, 3, 4])
    if task == "regression":
        target = torch.randn(prediction.shape)
    prediction[17, 2] = value
    assert all(np.isnan(score) for score in evaluate(prediction, target, task).values())


def test_regression():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 43, 3)) * [1, 4, 0.2] + [0, 2, -1]
    x[:, 1] = 0.5 * x[:, 1] + 0.5 * y[:, 1]
    rho = [
        2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
        for a, b in zip(x.T, y.T, strict=True)
    ]
    expected = {
        "ccc": np.mean(rho),
        "mse": reference.mean_squared_error(y, x),
        "mae": reference.mean_absolute_error(y, x),
    }
    assert evaluate(torch.tensor(x), torch.tensor(y), "regression") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_the_better_of_two_is_known_and_a_tie_is_no_improvement(name):
    metric = METRICS[name]
    low, high = (0.2, 0.7) if metric.mode == "max" else (0.7, 0.2)
    assert metric.better(high, low)
    assert not metric.better(low, high)
    assert not metric.better(low, low)
    assert metric.better(low, None)
    assert not metric.better(float("nan"), None)
    assert not metric.better(float("nan"), low)


def test_a_perfect_prediction_is_the_best_of_each():
    target = torch.tensor([0, 2, 1, 2, 0])
    assert evaluate(torch.eye(3)[target], target, "classification") == dict.fromkeys(
        ("accuracy", "balanced_accuracy", "macro_f1"), 1.0
    )
    values = torch.randn(5, 2)
    assert evaluate(values, values, "regression") == pytest.approx({"ccc": 1.0, "mse": 0.0, "mae": 0.0})
