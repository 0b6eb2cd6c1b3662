"""The bytes that a study puts into the object store of every node, before there is a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pkdray.data.dataset import Dataset
from pkdray.models.weights import no_pretrained_weights
from pkdray.training.inputs import SEARCH_SPLITS
from pkdray.training.plan import Plan
from pkdray.training.teachers import build_adapters, build_teacher

FLOAT = 4


def held_bytes(plan: Plan, dataset: Dataset) -> int:
    """Bytes of the arrays that a sweep shares: inputs, targets and what every teacher says of every sample.

    Images are not among them: they stay on disk, as what frozen backbones make of them does.
    """
    fold = plan.config.dataset.fold
    samples = sum(len(dataset.rows(split, fold)) for split in SEARCH_SPLITS)
    targets = dataset.targets()
    return samples * (targets.nbytes // max(1, len(targets)) + FLOAT * _numbers(plan))


def _numbers(plan: Plan) -> int:
    """float32 numbers a sample."""
    shapes = plan.shapes(plan.prevalent)
    inputs = sum(math.prod(shapes[name]) for name in plan.prevalent if plan.info.modalities[name].kind != "images")
    said = _said(plan)
    # A prediction has one loss and one gamma, whatever the number of its classes or targets.
    judged = 2 * (plan.info.target_frames or 1)
    return inputs + sum(embedding + prediction + judged for embedding, prediction in said[0].values()) + said[1]


def _said(plan: Plan) -> tuple[dict[str, tuple[int, int]], int]:
    """Numbers of the embedding and of the prediction of each teacher, and of the first one's privileged features.

    One sample goes through networks on the ``meta`` device, which have shapes and no numbers.
    """
    widths: dict[str, tuple[int, int]] = {}
    features: Mapping[str, Tensor] = {}
    with torch.device("meta"), torch.no_grad(), no_pretrained_weights():
        samples = {
            name: torch.empty(1, *modality.shape, dtype=torch.uint8 if modality.kind == "images" else torch.float32)
            for name, modality in plan.info.modalities.items()
        }
        for member in plan.pool.values():
            if member.adapter_of is None:
                output = build_teacher(plan, member).eval()({name: samples[name] for name in member.modalities})
                widths[member.name] = (output.embedding.numel(), output.prediction.numel())
                if member.name == plan.first_teacher:
                    features = output.features
        recycled = {member.name: member.modalities[0] for member in plan.pool.values() if member.adapter_of is not None}
        if recycled:
            adapted = build_adapters(plan).eval()(features)
            for name, modality in recycled.items():
                embedding, prediction = adapted[modality]
                widths[name] = (embedding.numel(), prediction.numel())
    privileged = sum(value.numel() for name, value in features.items() if name not in plan.prevalent)
    return widths, privileged
