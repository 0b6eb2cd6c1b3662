"""What frozen backbones make of every sample: computed once, kept on disk, and shared by whoever uses the same one.

A frozen network answers the same in every epoch of every trial, in a student, in its T-Net and in a teacher. Its steps
[N, S, 512] are therefore kept as `<pools>/frozen/<fingerprint>.npy`, whole or absent, and mapped like images. Whoever
trains takes them in place of the images (`with_steps`); what is missing is computed then. No lock is needed: those who
start together may each compute it, the results are the same, and the last write wins.

Features, such as spectrograms, have none: they are standardised on the training rows of a fold, and a frozen network
on them is cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from pkdray import mirrors
from pkdray.config import EncoderConfig, StudentConfig, TeachersConfig
from pkdray.data.dataset import Dataset
from pkdray.data.mapped import MappedArray, write_blocks
from pkdray.embeddings import Arrays
from pkdray.errors import DatasetError
from pkdray.files import fingerprint
from pkdray.models.backbones import build_encoder
from pkdray.models.visual import FEATURES, NETWORKS, VisualEncoder
from pkdray.training.inputs import input_name, steps_name
from pkdray.training.plan import Plan

FORMAT = 1
"""Raise when the same network would make other steps of the same images: what lies on disk is then computed anew."""

_LOG = logging.getLogger(__name__)


def with_steps(
    plan: Plan,
    section: StudentConfig | TeachersConfig,
    arrays: Mapping[str, Arrays],
    folder: Path | None,
    device: str = "cpu",
) -> dict[str, Arrays]:
    """The arrays with ``steps.<modality>`` in place of ``input.<modality>`` wherever the encoder's network is frozen.

    Args:
        plan: the study.
        section: whose encoders: the teachers', or a trial's student's.
        arrays: by split and name, as `inputs.split_arrays` makes them.
        folder: where steps are kept; None leaves the images.
        device: where missing steps are computed.

    Raises:
        CheckpointError: the file of weights is missing, damaged or of another network.
        StorageError: the folder cannot be written.
    """
    found: dict[str, MappedArray] = {}
    result: dict[str, Arrays] = {}
    for split, named in arrays.items():
        kept = dict(named)
        for modality in plan.info.modalities:
            images = kept.get(input_name(modality))
            encoder = section.encoders.get(modality, section.encoder)
            # Images that were read into memory are no more the file's, whose rows the steps belong to.
            if folder is None or not isinstance(images, MappedArray) or not encoder.freeze:
                continue
            if modality not in found:
                found[modality] = _steps(plan, modality, encoder, images.path, folder, device)
            kept[steps_name(modality)] = found[modality][images.rows]
            del kept[input_name(modality)]
        result[split] = kept
    return result


def missing_steps(
    plan: Plan, dataset: Dataset, section: StudentConfig | TeachersConfig, modalities: Iterable[str], folder: Path
) -> list[str]:
    """The modalities whose frozen steps are still to be computed."""
    missing = []
    for name in modalities:
        encoder = section.encoders.get(name, section.encoder)
        if not encoder.freeze or not isinstance(images := dataset.features(name), MappedArray):
            continue
        if _opened(steps_path(plan, name, encoder, folder), len(images)) is None:
            missing.append(name)
    return missing


def steps_path(plan: Plan, modality: str, encoder: EncoderConfig, folder: Path) -> Path:
    """The file of a frozen network's steps: its name tells the images, the network and the weights in it."""
    assert encoder.weights_checksum is not None, "a plan's encoders have the checksums of their weights"
    identity = {
        "format": FORMAT,
        "dataset": plan.dataset_fingerprint,
        "modality": modality,
        "network": NETWORKS[encoder.kind],
        "weights": encoder.weights_checksum,
    }
    return folder / f"{fingerprint(identity)}.npy"


def _steps(plan: Plan, modality: str, encoder: EncoderConfig, images: Path, folder: Path, device: str) -> MappedArray:
    path = steps_path(plan, modality, encoder, folder)
    every = MappedArray.open(images)
    found = _opened(path, len(every))
    if found is not None:
        return found
    _LOG.info("computing the steps of %s's frozen %s for %d samples: %s", modality, encoder.kind, len(every), path)
    write_blocks(path, len(every), _computed(plan, modality, encoder, every, device))
    mirrors.push_file(path)
    return MappedArray.open(path)


def _computed(
    plan: Plan, modality: str, encoder: EncoderConfig, images: MappedArray, device: str
) -> Iterator[np.ndarray]:
    shape = plan.shapes([modality])[modality]
    network = build_encoder(encoder, shape, per_frame=plan.task.per_frame).to(device).eval()
    assert isinstance(network, VisualEncoder)
    for block in images.blocks():
        with torch.no_grad():
            yield network.steps(torch.from_numpy(block).to(device)).float().cpu().numpy()


def _opened(path: Path, count: int) -> MappedArray | None:
    """The steps in a file; None where there is none, or it is damaged and to be computed again."""
    if not mirrors.have(path):
        return None
    try:
        steps = MappedArray.open(path)
    except DatasetError as error:
        _LOG.warning("%s It is computed again.", error.what)
        return None
    if steps.dtype != np.float32 or len(steps.shape) != 3 or (len(steps), steps.shape[-1]) != (count, FEATURES):
        _LOG.warning(
            "%s holds %s %s, and no steps of %d samples: computed again.", path, steps.dtype, steps.shape, count
        )
        return None
    return steps
