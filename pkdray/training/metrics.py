"""What a prediction is judged by: the metrics by name, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pkdray.losses import ccc


@dataclass(frozen=True)
class Metric:
    """A metric's name, the task it judges and whether more (``max``) or less (``min``) is better."""

    name: str
    task: Literal["classification", "regression"]
    mode: Literal["max", "min"]
    of: Callable[[Tensor, Tensor], Tensor]

    def better(self, value: float, than: float | None) -> bool:
        """Whether ``value`` beats ``than`` (anything finite beats None)."""
        if than is None:
            return value == value
        return value > than if self.mode == "max" else value < than


def _accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.argmax(dim=-1) == target).double().mean()


def _balanced_accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    # torchmetrics counts a class that is absent but was predicted as a recall of 0.
    classes = prediction.shape[-1]
    count = torch.bincount(target, minlength=classes)
    right = torch.bincount(target[prediction.argmax(dim=-1) == target], minlength=classes)
    present = count > 0
    return (right[present].double() / count[present]).mean()


def _macro_f1(prediction: Tensor, target: Tensor) -> Tensor:
    # Two seconds of import that only a training needs, not a glance at a run.
    from torchmetrics.functional.classification import multiclass_f1_score

    return multiclass_f1_score(prediction, target, num_classes=prediction.shape[-1], average="macro")


def _mean_ccc(prediction: Tensor, target: Tensor) -> Tensor:
    return ccc(prediction, target).mean()


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classification", "max", _accuracy),
        Metric("balanced_accuracy", "classification", "max", _balanced_accuracy),
        Metric("macro_f1", "classification", "max", _macro_f1),
        Metric("ccc", "regression", "max", _mean_ccc),
        Metric("mse", "regression", "min", functional.mse_loss),
        Metric("mae", "regression", "min", functional.l1_loss),
    )
}
"""accuracy: share of right classes. balanced_accuracy: mean recall of the classes present. macro_f1: mean F1 of the
classes. ccc: concordance correlation coefficient (population moments), mean over the targets. mse, mae: mean squared
and absolute error."""


def evaluate(prediction: Tensor, target: Tensor, task: str) -> dict[str, float]:
    """Every metric of the task; NaN where a prediction is not finite, which argmax would take for a class.

    Args:
        prediction: logits [R, C] or regressed targets [R, n].
        target: class indices [R] or targets [R, n].
        task: ``classification`` or ``regression``.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
        >>> round(evaluate(logits, torch.tensor([0, 1, 1]), "classification")["accuracy"], 3)
        0.667
    """
    if not prediction.isfinite().all():
        return {name: float("nan") for name, metric in METRICS.items() if metric.task == task}
    with torch.no_grad():
        return {name: float(metric.of(prediction, target)) for name, metric in METRICS.items() if metric.task == task}
