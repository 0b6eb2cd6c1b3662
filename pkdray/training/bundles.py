"""A student as one folder that needs nothing else: weights, architecture, preprocessing.

``model.safetensors`` · ``config.yaml`` (architecture, task, what made it) · ``preprocessing.yaml`` (see
`training.preprocessing`) · ``metrics.json``. A run's ``best/`` is such a folder, and so is an exported student. To
predict from one takes torch, but neither Ray nor Optuna nor POT: this module and what it imports stay free of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from pkdray.config import StudentConfig
from pkdray.data.info import RecordingsInfo
from pkdray.data.normalisation import Standardizer
from pkdray.errors import CheckpointError, DatasetError
from pkdray.files import checksum, write_json, write_yaml
from pkdray.models.networks import Student, TaskShape, build_tnet
from pkdray.models.weights import no_pretrained_weights
from pkdray.training.checkpoints import load_tensors, load_weights, save_tensors
from pkdray.training.preprocessing import HEADER, Preprocessing

MODEL, CONFIG, PREPROCESSING, METRICS = "model.safetensors", "config.yaml", "preprocessing.yaml", "metrics.json"
_NEEDED = (MODEL, PREPROCESSING)


class Architecture(BaseModel):
    """Everything that the student's network is built from; ``shapes`` are those of a sample, without the batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: StudentConfig
    fusion: str
    embedding: int
    shapes: dict[str, list[int]]
    outputs: int
    per_frame: bool
    tnet_outputs: int

    def build(self) -> Student:
        """The network with fresh weights."""
        task = TaskShape(self.outputs, self.per_frame)
        tnet = build_tnet(self.student, self.shapes, task, self.tnet_outputs) if self.tnet_outputs else None
        return Student(self.student, self.shapes, task, fusion=self.fusion, embedding=self.embedding, tnet=tnet)


class StudentInfo(BaseModel):
    """What config.yaml of a student's folder says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    task: Literal["classification", "regression"]
    targets: list[str]
    classes: list[str]
    architecture: Architecture
    made_from: dict[str, Any]
    checksums: dict[str, str] = {}


class Pipeline(nn.Module):
    """Preprocessing and network in one: raw features in, probabilities or regressed targets out.

    Features are standardised here; images, uint8 as stored, go in as they are, since their encoders normalise them.
    Shapes: one tensor [B, *shape] a modality, in the order of ``modalities`` -> [B, C] or [B, T, C].

    Args:
        student: the network.
        standardizers: by modality, in the order of the inputs; None for images.
        task: ``classification`` or ``regression``.
        recordings: how raw recordings are cut into samples; None where it was trained on features alone.
    """

    def __init__(
        self,
        student: Student,
        standardizers: Mapping[str, Standardizer | None],
        task: str,
        recordings: RecordingsInfo | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.modalities = list(standardizers)
        self.images = [name for name, standardizer in standardizers.items() if standardizer is None]
        self.classify = task == "classification"
        self.recordings = recordings
        for index, standardizer in enumerate(standardizers.values()):
            if standardizer is not None:
                self.register_buffer(f"mean_{index}", torch.as_tensor(standardizer.mean))
                self.register_buffer(f"std_{index}", torch.as_tensor(standardizer.std))

    def forward(self, *values: Tensor) -> Tensor:
        """Predict a batch of raw features."""
        inputs = {}
        for index, (name, value) in enumerate(zip(self.modalities, values, strict=True)):
            if name in self.images:
                inputs[name] = value
            else:
                inputs[name] = (value - self.get_buffer(f"mean_{index}")) / self.get_buffer(f"std_{index}")
        prediction = self.student(inputs).prediction
        return prediction.softmax(dim=-1) if self.classify else prediction


def write_bundle(
    folder: Path,
    student: nn.Module,
    info: StudentInfo,
    standardizers: Mapping[str, Standardizer],
    metrics: Mapping[str, Any],
    recordings: RecordingsInfo | None = None,
) -> None:
    """Write a student's folder; config.yaml, with the checksums of the rest, comes last.

    Args:
        folder: where it goes.
        student: the network.
        info: what config.yaml says.
        standardizers: by modality; those of ``info.architecture.shapes`` that have none are images.
        metrics: what metrics.json says.
        recordings: how samples were cut from recordings, if they were.

    Raises:
        StorageError: the folder cannot be written.
    """
    save_tensors(folder / MODEL, student.state_dict(), {"format": 1})
    preprocessing = Preprocessing({name: standardizers.get(name) for name in info.architecture.shapes}, recordings)
    write_yaml(folder / PREPROCESSING, preprocessing.to_dict(), header=HEADER)
    write_json(folder / METRICS, metrics)
    write_info(folder, info)


def write_info(folder: Path, info: StudentInfo, names: Iterable[str] = _NEEDED) -> None:
    """Write config.yaml, with the checksums of the files in ``names``, which are in the folder already.

    Raises:
        StorageError: the folder cannot be written.
    """
    sums = {name: checksum(folder / name) for name in names}
    write_yaml(folder / CONFIG, info.model_copy(update={"checksums": sums}).model_dump(mode="json"))


def read_info(folder: Path) -> StudentInfo:
    """What config.yaml of a student's folder says, the other files unread.

    Raises:
        CheckpointError: there is no config.yaml, or it describes no student.
    """
    try:
        return StudentInfo.model_validate(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise _no_student(folder, error) from error


def read_bundle(folder: Path) -> tuple[StudentInfo, Pipeline, dict[str, Any]]:
    """A student's folder: its info, its pipeline in evaluation mode, and its metrics.

    Weights and preprocessing must be there; any other file with a checksum may be left behind, but not altered.

    Raises:
        CheckpointError: it is no student, a file is missing, truncated or was altered.
    """
    info = read_info(folder)
    try:
        for name in dict.fromkeys([*_NEEDED, *info.checksums]):
            if name not in _NEEDED and not (folder / name).exists():
                continue
            if checksum(folder / name) != info.checksums.get(name):
                raise CheckpointError(
                    f"{folder / name} is truncated or was altered: its checksum is not the one in {CONFIG}.",
                    cure="Copy the folder again, or export the student again.",
                )
        said = yaml.safe_load((folder / PREPROCESSING).read_text(encoding="utf-8"))
        preprocessing = Preprocessing.from_dict(said, info.architecture.shapes)
        _check(info, preprocessing.standardizers)
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        with no_pretrained_weights():
            student = info.architecture.build()
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, DatasetError) as error:
        raise _no_student(folder, error) from error
    tensors, _ = load_tensors(folder / MODEL)
    load_weights(student, tensors, folder / MODEL)
    pipeline = Pipeline(student, preprocessing.standardizers, info.task, preprocessing.recordings)
    return info, pipeline.eval(), metrics


def _check(info: StudentInfo, standardizers: Mapping[str, Standardizer | None]) -> None:
    names = info.classes if info.task == "classification" else info.targets
    if info.architecture.outputs != len(names):
        raise ValueError(f"{info.architecture.outputs} outputs for {len(names)} names")
    for name, shape in info.architecture.shapes.items():
        standardizer = standardizers[name]
        if standardizer is None:
            if len(shape) < 3 or shape[-1] != 3:
                raise ValueError(f"'{name}' has shape {shape}, but images have [..., H, W, 3]")
        elif shape[-1:] != [len(standardizer.mean)]:
            raise ValueError(f"'{name}' has shape {shape} but {len(standardizer.mean)} standardised channels")


def _no_student(folder: Path, error: Exception) -> CheckpointError:
    reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        reason = f"it has no {Path(error.filename).name}"
    elif isinstance(error, ValidationError):
        fault = error.errors()[0]
        reason = f"{CONFIG}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    elif isinstance(error, KeyError):
        reason = f"{error} is missing"
    return CheckpointError(
        f"{folder} is no student of pkdray, or is damaged ({reason}).", cure="Name a folder made by `pkdray export`."
    )
