"""What dataset.yaml says: pydantic models of a dataset and its modalities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, ValidationError, model_validator

from pkdray import files
from pkdray.errors import DatasetError

# A modality names a file and a target names a column, so both stay clear of separators and leading dots.
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]


class Modality(BaseModel):
    """One modality of a dataset.

    Args:
        kind: ``features``, one array of float32 a sample, or ``images``, one sequence of uint8 RGB images.
        shape: features are ``(d,)``, one vector a sample; ``(T, d)``, a sequence of T frames; ``(H, W, 1)``, one
            picture of one channel, such as a spectrogram; or ``(T, H, W, 1)``, a sequence of T of them. Images are
            ``(T, H, W, 3)`` or, a sequence of L clips of F images each, ``(L, F, H, W, 3)``.
        rate: frames a second (Hz) of a sequence, where known.

    Example:
        >>> face = Modality(shape=(25, 7), rate=12.5)
        >>> face.frames, face.channels, face.size
        (25, 7, 175)
        >>> Modality(kind="images", shape=(75, 112, 112, 3), rate=25).frames
        75
        >>> Modality(kind="images", shape=(16, 8, 112, 112, 3)).frames
        16
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["features", "images"] = "features"
    shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=5)
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _shape_of_its_kind(self) -> Self:
        axes, channels = len(self.shape), self.shape[-1]
        if self.kind == "features" and axes > 2 and (axes > 4 or channels != 1):
            raise ValueError(f"features have a shape of [d], [T, d], [H, W, 1] or [T, H, W, 1], not {list(self.shape)}")
        if self.kind == "images" and (axes not in (4, 5) or channels != 3):
            raise ValueError(f"images have a shape of [T, H, W, 3] or [L, F, H, W, 3], not {list(self.shape)}")
        return self

    @property
    def frames(self) -> int | None:
        """T of a sequence, L of a sequence of clips, None for one vector or one picture a sample."""
        return self.shape[0] if len(self.shape) not in (1, 3) else None

    @property
    def dtype(self) -> np.dtype:
        """The numbers' type on disk."""
        return np.dtype(np.uint8 if self.kind == "images" else np.float32)

    @property
    def channels(self) -> int:
        """The number of features d of a vector or a frame, or of a picture's channels."""
        return self.shape[-1]

    @property
    def size(self) -> int:
        """Numbers a sample: the product of its shape."""
        return math.prod(self.shape)


class RecordingsInfo(BaseModel):
    """How a dataset's samples were cut from recordings, so that other recordings can be cut the same way.

    Args:
        name: the set: ``biovid``, ``affwild2`` or ``recola``.
        options: fields of ``importers.extract.MediaOptions``, as plain values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["biovid", "affwild2", "recola"]
    options: dict[str, Any] = Field(default_factory=dict)


class DatasetInfo(BaseModel):
    """What a dataset is: its task, targets, classes, modalities, origin, and the checksums of its files.

    Args:
        format: version of the folder's layout.
        name: a short name for reports.
        task: ``classification`` (one target, an index into ``classes``) or ``regression``.
        targets: names of the targets, e.g. ``["valence", "arousal"]``.
        classes: names of the classes, for classification.
        target_frames: T where each sample has T targets, one a frame; None for one target a sample.
        missing_targets: whether some frames have no label: NaN in any of their targets. Only regression with
            ``target_frames`` may; every sample keeps a labelled frame. Losses and metrics leave such frames out.
        modalities: by name.
        recordings: how samples were cut from recordings; None where they came as features.
        source: where the recordings come from.
        licence: what one may do with them.
        citation: what to cite.
        notes: whatever a user of the dataset must know.
        checksums: SHA-256 by file name; filled in by ``write_dataset``.
        fingerprint: of everything above; filled in by ``write_dataset``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str = Field(min_length=1)
    task: Literal["classification", "regression"]
    targets: tuple[_Name, ...] = Field(default=("target",), min_length=1)
    classes: tuple[str, ...] = ()
    target_frames: PositiveInt | None = None
    missing_targets: bool = False
    modalities: dict[_Name, Modality] = Field(default_factory=dict)
    recordings: RecordingsInfo | None = None
    source: str = ""
    licence: str = ""
    citation: str = ""
    notes: str = ""
    checksums: dict[str, str] = Field(default_factory=dict)
    fingerprint: str = ""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets {list(self.targets)} name one target twice")
        taken = sorted({"sample_id", "frame"} & set(self.targets))
        if taken:
            raise ValueError(f"a target cannot be called {taken[0]}: the answers have a column of that name")
        if self.task == "classification":
            if len(self.targets) != 1:
                raise ValueError(f"classification has one target, not {list(self.targets)}")
            if len(self.classes) < 2:
                raise ValueError(f"classification needs at least two classes, not {list(self.classes)}")
            if len(set(self.classes)) < len(self.classes):
                raise ValueError(f"classes {list(self.classes)} name one class twice")
        elif self.classes:
            raise ValueError(f"regression has no classes, but {list(self.classes)} are given")
        if self.missing_targets and (self.task != "regression" or self.target_frames is None):
            raise ValueError("missing_targets are for regression with target_frames: a sample has a label, or is none")
        return self

    @property
    def target_columns(self) -> list[str]:
        """The columns of samples.parquet that hold the targets.

        Example:
            >>> DatasetInfo(name="x", task="regression", targets=("valence", "arousal")).target_columns
            ['target_valence', 'target_arousal']
        """
        if self.task == "classification" or self.targets == ("target",):
            return ["target"]
        return [f"target_{name}" for name in self.targets]

    @property
    def file_names(self) -> list[str]:
        """The dataset's data files, relative to its folder."""
        return ["samples.parquet", *map(self.file_name, self.modalities)]

    def file_name(self, modality: str) -> str:
        """The file of one modality, relative to the dataset's folder: Parquet for features, .npy for images."""
        if self.modalities[modality].kind == "images":
            return f"images/{modality}.npy"
        return f"features/{modality}.parquet"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for YAML or JSON; what is not known is left out."""
        said = self.model_dump(mode="json", exclude_none=True)
        if not self.missing_targets:
            # Datasets without such frames keep the fingerprint that they had before there were any.
            del said["missing_targets"]
        return said

    def computed_fingerprint(self) -> str:
        """The fingerprint of everything that is said here, the checksums of the files included; no path enters it."""
        content = self.to_dict()
        del content["fingerprint"]
        return files.fingerprint(content)


def read_info(path: Path) -> DatasetInfo:
    """Read a dataset.yaml.

    Raises:
        DatasetError: the file is missing, is not YAML, or says something that no dataset can mean (all faults at once).
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"{path.parent} is not a dataset: it has no {path.name}.",
            cure="Give the folder that an import made, or import your recordings first.",
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}", cure="Restore it from a copy, or import again."
        ) from error
    try:
        return DatasetInfo.model_validate(said)
    except ValidationError as error:
        raise info_error(str(path), error) from error


def info_error(where: str, error: ValidationError) -> DatasetError:
    """Say in a ``DatasetError``, a line a fault, why ``where`` does not describe a dataset."""
    details = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        # A fault of the whole mapping would repeat the whole mapping as its value.
        details.append(f"{place}: {message} (received {fault['input']!r})" if place else message)
    return DatasetError(f"{where} does not describe a dataset:", details=details, cure="Correct these entries.")
