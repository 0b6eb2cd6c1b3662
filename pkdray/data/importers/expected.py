"""What a set looks like once it is imported with the default options, for whoever asks before there are recordings."""

from __future__ import annotations

from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers.extract import MODALITIES, MediaOptions, described
from pkdray.data.info import DatasetInfo


def expected_info(name: str) -> DatasetInfo:
    """The dataset that ``pkdray data import NAME`` makes with all modalities and default options, without its samples.

    Args:
        name: ``biovid``, ``affwild2`` or ``recola``.

    Example:
        >>> about = expected_info("recola")
        >>> about.target_frames, about.modalities["face"].shape
        (25, (25, 112, 112, 3))
    """
    window = affwild2.WINDOW_CLIPS if name == "affwild2" else 1
    modalities = described(name, MediaOptions(MODALITIES[name], window=window))
    if name == "biovid":
        return DatasetInfo(
            name=name, task="classification", classes=biovid.CLASSES["BL1-PA4"], modalities=modalities, source=name
        )
    targets, frames = (recola.TARGETS, recola.CLIP_LABELS) if name == "recola" else (affwild2.TARGETS, window)
    return DatasetInfo(
        name=name, task="regression", targets=targets, target_frames=frames, modalities=modalities, source=name
    )
