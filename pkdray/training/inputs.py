"""A study's arrays: standardised inputs, targets and the teachers' embeddings, by split and name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from pkdray.data.dataset import Dataset
from pkdray.data.normalisation import Standardizer
from pkdray.embeddings import Arrays, Rows, TeacherEmbeddings
from pkdray.training.loop import Batch
from pkdray.training.plan import Plan

SEARCH_SPLITS = ("train", "val")
"""What a search may see. The test split is opened by `evaluate`, which asks for it by name."""


def fit_standardizers(plan: Plan, dataset: Dataset, modalities: Iterable[str]) -> dict[str, Standardizer]:
    """Mean and deviation of each modality's channels, over the training rows only."""
    train = dataset.rows("train", plan.config.dataset.fold)
    return {name: Standardizer.fit(dataset.features(name)[train]) for name in modalities}


def split_arrays(
    plan: Plan, dataset: Dataset, modalities: Sequence[str], splits: Iterable[str] = SEARCH_SPLITS
) -> dict[str, dict[str, np.ndarray]]:
    """``{split: {"input.<modality>": [N, ...], "target": [N, ...]}}``, inputs standardised on the training rows."""
    standardizers = fit_standardizers(plan, dataset, modalities)
    targets = dataset.targets()
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for split in splits:
        rows = dataset.rows(split, plan.config.dataset.fold)
        arrays[split] = {
            input_name(name): standardizer.apply(dataset.features(name)[rows])
            for name, standardizer in standardizers.items()
        }
        arrays[split]["target"] = targets[rows]
    return arrays


def with_embeddings(
    arrays: Mapping[str, Arrays], embeddings: Mapping[str, Mapping[str, TeacherEmbeddings]], first: str
) -> dict[str, dict[str, np.ndarray]]:
    """Add ``<teacher>.<field>`` for every teacher, and ``privileged`` of the first, to each split's arrays.

    Args:
        arrays: by split, as `split_arrays` makes them.
        embeddings: by split and teacher, rows in the split's order.
        first: the teacher whose privileged features the T-Net learns.
    """
    result: dict[str, dict[str, np.ndarray]] = {}
    for split, named in arrays.items():
        result[split] = dict(named)
        for teacher, said in embeddings[split].items():
            for field in TEACHER_FIELDS:
                result[split][f"{teacher}.{field}"] = getattr(said, field)
        result[split]["privileged"] = embeddings[split][first].privileged
    return result


TEACHER_FIELDS = ("embedding", "prediction", "loss", "gamma")


def input_name(modality: str) -> str:
    """The name of a modality's array."""
    return f"input.{modality}"


def student_rows(
    arrays: Arrays, modalities: Iterable[str], teachers: Iterable[str], *, privileged: bool, device: str = "cpu"
) -> Rows:
    """The arrays that one training reads, and no others, as rows on a device."""
    names = ["target", *map(input_name, modalities)]
    names += [f"{teacher}.{field}" for teacher in teachers for field in TEACHER_FIELDS]
    if privileged:
        names.append("privileged")
    return Rows({name: arrays[name] for name in names}, device)


def inputs_of(batch: Batch, modalities: Iterable[str]) -> dict[str, Tensor]:
    """The network's input: modality -> [B, ...]."""
    return {name: batch[input_name(name)] for name in modalities}


def as_rows(values: Tensor, dims: int) -> Tensor:
    """Flatten samples and frames into rows, keeping the last ``dims`` dimensions.

    Shapes: [B, T, D] -> [B * T, D] with dims 1; [B, D] stays; [B, T] -> [B * T] with dims 0.
    """
    return values.reshape(-1, *values.shape[values.ndim - dims :])
