"""What stands between a recording and a student's network: how samples are cut, and how features are standardised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from pkdray.data.info import RecordingsInfo
from pkdray.data.normalisation import Standardizer

HEADER = """features are standardised, (value - mean) / std, channel by channel;
images are uint8 RGB, and go in as they are.
recordings, if there, says how samples were cut from recordings."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What preprocessing.yaml of a student's folder says.

    Args:
        standardizers: by modality; None for images, which the encoder itself normalises.
        recordings: how samples were cut from recordings; None where the student was trained on features alone.

    Example:
        >>> said = Preprocessing({"face": None}).to_dict()
        >>> said
        {'format': 2, 'modalities': {'face': {'kind': 'images'}}}
        >>> Preprocessing.from_dict(said, ["face"]).standardizers
        {'face': None}
    """

    standardizers: Mapping[str, Standardizer | None]
    recordings: RecordingsInfo | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for YAML."""
        modalities = {
            name: {"kind": "images"} if one is None else {"kind": "features", **one.to_dict()}
            for name, one in self.standardizers.items()
        }
        said: dict[str, Any] = {"format": 2, "modalities": modalities}
        if self.recordings is not None:
            said["recordings"] = self.recordings.model_dump(mode="json")
        return said

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], modalities: Iterable[str]) -> Self:
        """Rebuild what ``to_dict`` gave, or the older format: a standardisation a modality and nothing else.

        Args:
            said: what the file says.
            modalities: the student's, in its order.

        Raises:
            KeyError: a modality is missing.
            ValueError: a modality or the recordings are described in a way that means nothing.
            DatasetError: a standardisation is none.
        """
        if not isinstance(said, Mapping):
            raise ValueError(f"the preprocessing is {said!r}")
        # In the older format every entry is a modality's, so that 'format' would be no number.
        if said.get("format") != 2:
            return cls({name: Standardizer.from_dict(said[name]) for name in modalities})
        standardizers: dict[str, Standardizer | None] = {}
        for name in modalities:
            entry = said["modalities"][name]
            if entry["kind"] not in ("features", "images"):
                raise ValueError(f"'{name}' is of kind {entry['kind']!r}, neither features nor images")
            standardizers[name] = Standardizer.from_dict(entry) if entry["kind"] == "features" else None
        if said.get("recordings") is None:
            return cls(standardizers)
        try:
            return cls(standardizers, RecordingsInfo.model_validate(said["recordings"]))
        except ValidationError as error:
            raise ValueError(f"the recordings are {said['recordings']!r}") from error
