"""What a set looks like once it is imported with the default options, for whoever asks before there are recordings."""

from __future__ import annotations

from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers.extract import MODALITIES, MediaOptions, described
from pkdray.data.info import DatasetInfo

_CLIPS_OF_FRAMES = 5
"""Dimensions of a sequence of clips [L, F, H, W, 3], where each clip has a target."""


def expected_info(name: str) -> DatasetInfo:
    """The dataset that ``pkdray data import NAME`` makes with all modalities and default options, without its samples.

    Args:
        name: ``biovid``, ``affwild2`` or ``recola``.

    Example:
        >>> about = expected_info("recola")
        >>> about.target_frames, about.modalities["face"].shape
        (25, (25, 112, 112, 3))
    """
    modalities = described(name, MediaOptions(MODALITIES[name]))
    if name == "biovid":
        return DatasetInfo(
            name=name, task="classification", classes=biovid.CLASSES["BL1-PA4"], modalities=modalities, source=name
        )
    targets = affwild2.TARGETS
    frames: int | None = None
    if name == "recola":
        targets, frames = recola.TARGETS, recola.CLIP_LABELS
    elif len(modalities["face"].shape) == _CLIPS_OF_FRAMES:
        frames = modalities["face"].frames
    return DatasetInfo(
        name=name, task="regression", targets=targets, target_frames=frames, modalities=modalities, source=name
    )
