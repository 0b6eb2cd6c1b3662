"""For whom is a student good, and for whom is it not: its test scores by class and by subject."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkdray.data.dataset import Dataset
from pkdray.training.inputs import labelled_rows
from pkdray.training.metrics import METRICS
from pkdray.training.plan import Plan


def subgroups(plan: Plan, dataset: Dataset, prediction: Tensor) -> dict[str, list[dict[str, Any]]]:
    """The score of each group of test samples that has two of them at least.

    Args:
        plan: of the run.
        dataset: its dataset.
        prediction: the student's of the test split, [N, C] or [N, T, C], in the split's order.

    Returns:
        ``class``: for a classification, the share of right answers (recall) of each class. ``subject``: the study's
        metric of each subject; empty where subjects have one sample each. A group is ``name``, ``samples`` and the
        metric, None where it is not defined (a CCC of constant labels).
    """
    rows = dataset.rows("test", plan.config.dataset.fold)
    target = torch.as_tensor(dataset.targets()[rows])
    subjects = dataset.samples["subject_id"].iloc[rows].astype(str).to_numpy()
    groups: dict[str, list[dict[str, Any]]] = {"class": [], "subject": []}
    if plan.info.task == "classification":
        for index, name in enumerate(plan.info.classes):
            of_class = target == index
            if int(of_class.sum()) > 1:
                right = (prediction.argmax(dim=-1)[of_class] == index).double().mean()
                groups["class"].append({"name": name, "samples": int(of_class.sum()), "accuracy": float(right)})
    metric = METRICS[plan.metric.name]
    for name in np.unique(subjects):
        own = torch.as_tensor(np.flatnonzero(subjects == name))
        if len(own) > 1:
            said, labelled = labelled_rows(plan.info, target[own])
            value = float(metric.of(labelled(prediction[own], 1), said)) if len(said) > 1 else math.nan
            groups["subject"].append(
                {"name": name, "samples": len(own), metric.name: value if math.isfinite(value) else None}
            )
    return groups
