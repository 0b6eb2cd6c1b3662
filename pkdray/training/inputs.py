"""A study's arrays: standardised inputs, targets and the teachers' embeddings, by split and name."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pkdray.data.dataset import Dataset, DatasetInfo
from pkdray.data.mapped import MappedArray
from pkdray.data.normalisation import Standardizer
from pkdray.embeddings import Arrays, Rows, TeacherEmbeddings
from pkdray.models.encoder import Steps
from pkdray.training.feeding import INPUT, STEPS
from pkdray.training.loop import Batch
from pkdray.training.nested import joined
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan

SEARCH_SPLITS = ("train", "val")
"""What a search may see. The test split is opened by `evaluate`, which asks for it by name."""


def fit_standardizers(plan: Plan, dataset: Dataset, modalities: Iterable[str]) -> dict[str, Standardizer]:
    """Mean and deviation of each modality's channels, over the training rows only.

    Images have none: their encoders know what numbers they were trained on.
    """
    train = dataset.rows("train", plan.config.dataset.fold)
    features = {name: dataset.features(name) for name in modalities}
    return {
        name: Standardizer.fit(values[train]) for name, values in features.items() if isinstance(values, np.ndarray)
    }


def standardised(dataset: Dataset, name: str, standardizers: Mapping[str, Standardizer]) -> np.ndarray | MappedArray:
    """A modality of all samples as a network takes it."""
    values = dataset.features(name)
    return values if isinstance(values, MappedArray) else standardizers[name].apply(values)


def split_arrays(
    plan: Plan, dataset: Dataset, modalities: Sequence[str], splits: Iterable[str] = SEARCH_SPLITS
) -> dict[str, dict[str, np.ndarray | MappedArray]]:
    """``{split: {"input.<modality>": [N, ...], "target": [N, ...]}}``, inputs standardised on the training rows."""
    standardizers = fit_standardizers(plan, dataset, modalities)
    targets = dataset.targets()
    arrays: dict[str, dict[str, np.ndarray | MappedArray]] = {}
    for split in splits:
        rows = dataset.rows(split, plan.config.dataset.fold)
        arrays[split] = {}
        for name in modalities:
            values = dataset.features(name)[rows]
            if isinstance(values, np.ndarray):
                values = standardizers[name].apply(values)
            arrays[split][input_name(name)] = values
        arrays[split]["target"] = targets[rows]
    return arrays


def with_embeddings(
    arrays: Mapping[str, Arrays], embeddings: Mapping[str, Mapping[str, TeacherEmbeddings]], first: str
) -> dict[str, dict[str, np.ndarray | MappedArray]]:
    """Add ``<teacher>.<field>`` for every teacher, and ``privileged`` of the first, to each split's arrays.

    Args:
        arrays: by split, as `split_arrays` makes them.
        embeddings: by split and teacher, rows in the split's order.
        first: the teacher whose privileged features the T-Net learns.
    """
    result: dict[str, dict[str, np.ndarray | MappedArray]] = {}
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
    return f"{INPUT}{modality}"


def steps_name(modality: str) -> str:
    """The name of what a frozen backbone made of a modality; in a training's arrays it stands for the modality's."""
    return f"{STEPS}{modality}"


def present(arrays: Container[str], modalities: Iterable[str]) -> list[str]:
    """The name under which each modality is there: its own, or that of its frozen backbone's steps."""
    return [steps_name(name) if steps_name(name) in arrays else input_name(name) for name in modalities]


def student_rows(
    arrays: Arrays, modalities: Iterable[str], teachers: Iterable[str], *, privileged: bool, device: str = "cpu"
) -> Rows:
    """The arrays that one training reads, and no others, as rows on a device."""
    names = ["target", *present(arrays, modalities)]
    names += [f"{teacher}.{field}" for teacher in teachers for field in TEACHER_FIELDS]
    if privileged:
        names.append("privileged")
    return Rows({name: arrays[name] for name in names}, device)


def inputs_of(batch: Batch, modalities: Iterable[str]) -> dict[str, Tensor | Steps]:
    """The network's input: modality -> [B, ...], or the steps of a frozen backbone."""
    return {
        name: Steps(batch[steps_name(name)]) if steps_name(name) in batch else batch[input_name(name)]
        for name in modalities
    }


def forward_all(
    model: nn.Module, rows: Rows, modalities: Sequence[str], most: int = 4096, workers: Workers | None = None
) -> Any:
    """What a model says of all rows, without gradients: some at a time, put together as if they were one batch.

    Several ``workers``, who must all call this, share the rows and get the whole answer each.
    """
    workers = workers or Workers()
    names = present(rows, modalities)
    said = []
    with torch.no_grad():
        for chunk in rows.chunks(most):
            output = model(inputs_of(rows.take(workers.share(chunk), names), modalities))
            said.append(workers.gather(output, len(chunk)))
    return joined(said)


def labelled_rows(info: DatasetInfo, target: Tensor) -> tuple[Tensor, Callable[[Tensor, int], Tensor]]:
    """The targets as rows, and an `as_rows` that gives those very rows of any other array of the same samples.

    Where frames may lack a label (``info.missing_targets``), these are the rows whose targets are all finite: the
    others take part in no loss and in no metric. Elsewhere they are all rows, so that shapes do not depend on data and
    a step can be stacked under ``torch.func.vmap``.

    Args:
        info: of the dataset.
        target: class indices [B] or [B, T], or numbers [B, n] or [B, T, n].

    Example:
        >>> info = DatasetInfo(name="x", task="regression", target_frames=3, missing_targets=True)
        >>> target, rows = labelled_rows(info, torch.tensor([[[0.5], [torch.nan], [0.7]]]))
        >>> target.tolist(), rows(torch.tensor([[[1.0], [2.0], [3.0]]]), 1).tolist()
        ([[0.5], [0.699999988079071]], [[1.0], [3.0]])
    """
    targets = as_rows(target, 0 if info.task == "classification" else 1)
    if not info.missing_targets:
        return targets, as_rows
    labelled = targets.isfinite().all(dim=-1)
    return targets[labelled], lambda values, dims: as_rows(values, dims)[labelled]


def as_rows(values: Tensor, dims: int) -> Tensor:
    """Flatten samples and frames into rows, keeping the last ``dims`` dimensions.

    Shapes: [B, T, D] -> [B * T, D] with dims 1; [B, D] stays; [B, T] -> [B * T] with dims 0.
    """
    return values.reshape(-1, *values.shape[values.ndim - dims :])
