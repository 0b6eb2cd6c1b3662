"""What the frozen teachers say of every sample, computed once and kept beside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pkdray.data.dataset import Dataset
from pkdray.embeddings import Arrays, Rows, TeacherEmbeddings, write_embeddings
from pkdray.losses import ccc, classification_gamma, sequence_gamma
from pkdray.models.networks import privileged_features
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import (
    as_rows,
    fit_standardizers,
    input_name,
    inputs_of,
    labelled_rows,
    present,
    standardised,
)
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_adapters, load_teacher

CHUNK = 1024
"""Samples a forward pass at most; frozen teachers need no gradients, so this bounds memory and nothing else."""


def embed_pool(plan: Plan, dataset: Dataset, pool: Pool, device: str = "cpu") -> None:
    """Write every member's embeddings of every sample of the dataset to ``<pool>/embeddings``.

    Predictions and embeddings need no labels and are written for all splits; losses and gammas are written for train
    and val alone, because the labels of the test split are opened by `evaluate` and by nothing before it. A frame
    without a label has a NaN for its loss, and the gamma of its sequence, which is that of the labelled frames.

    Raises:
        CheckpointError: a teacher is missing or damaged.
        StorageError: the folder cannot be written.
    """
    standardizers = fit_standardizers(plan, dataset, plan.taught)
    inputs: Arrays = {input_name(name): standardised(dataset, name, standardizers) for name in plan.taught}
    inputs = with_steps(plan, plan.config.teachers, {"all": inputs}, pool.frozen, device)["all"]
    sample_ids = dataset.samples["sample_id"].tolist()
    for name, said in _said(plan, pool, inputs, device):
        write_embeddings(pool.embeddings(name), sample_ids, _judged(plan, dataset, *said))


def _said(
    plan: Plan, pool: Pool, inputs: Arrays, device: str
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Each member's (embedding, prediction, privileged features)."""
    for member in (member for member in plan.pool.values() if member.adapter_of is None):
        teacher = load_teacher(plan, member, pool.teacher(member.name)).to(device)
        recycled = {other.name: other.modalities[0] for other in plan.pool.values() if other.adapter_of == member.name}
        adapters = load_adapters(plan, pool.adapters(member.name)).to(device) if recycled else None
        parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in (member.name, *recycled)}
        rows = Rows({name: inputs[name] for name in present(inputs, member.modalities)}, device)
        with torch.no_grad():
            for chunk in rows.chunks(CHUNK):
                output = teacher(inputs_of(rows.take(chunk), member.modalities))
                missing = [name for name in member.modalities if name not in plan.prevalent]
                none = output.embedding[..., :0]
                privileged = privileged_features(output.features, plan.prevalent) if missing else none
                parts[member.name].append((output.embedding, output.prediction, privileged))
                if adapters is not None:
                    adapted = adapters(output.features)
                    for name, modality in recycled.items():
                        parts[name].append((*adapted[modality], none))
        for name, chunks in parts.items():
            embedding, prediction, privileged = (
                torch.cat(values).cpu().numpy() for values in zip(*chunks, strict=True)
            )
            yield name, (embedding, prediction, privileged)


def _judged(
    plan: Plan, dataset: Dataset, embedding: np.ndarray, prediction: np.ndarray, privileged: np.ndarray
) -> TeacherEmbeddings:
    loss = np.full(prediction.shape[:-1], np.nan, np.float32)
    gamma = loss.copy()
    targets, sequences = dataset.targets(), dataset.sequences()
    for split in ("train", "val"):
        rows = dataset.rows(split, plan.config.dataset.fold)
        said, target = torch.from_numpy(prediction[rows]), torch.from_numpy(np.asarray(targets[rows]))
        if plan.info.task == "classification":
            losses = functional.cross_entropy(as_rows(said, 1), as_rows(target, 0), reduction="none")
            loss[rows] = losses.reshape(said.shape[:-1]).numpy()
            gamma[rows] = classification_gamma(losses).reshape(said.shape[:-1]).numpy()
        else:
            # A frame without a label in one of the targets has no loss: NaN in their mean.
            loss[rows] = ((said - target) ** 2).mean(dim=-1).numpy()
            for sequence in np.unique(sequences[rows]):
                inside = sequences[rows] == sequence
                mask = torch.from_numpy(inside)
                labels, labelled = labelled_rows(plan.info, target[mask])
                concordance = ccc(labelled(said[mask], 1), labels).mean()
                gamma[rows[inside]] = float(sequence_gamma(concordance))
    return TeacherEmbeddings(embedding, prediction, loss, gamma, privileged)
