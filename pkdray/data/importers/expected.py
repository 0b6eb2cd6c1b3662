"""What a set looks like once it is imported with the default options, for whoever asks before there are recordings."""

from __future__ import annotations

from collections.abc import Collection

from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers.extract import MODALITIES, MediaOptions, described
from pkdray.data.info import DatasetInfo

STUDY_OPTIONS: dict[str, tuple[str, ...]] = {"biovid": ("--part B", "--protocol 5-fold")}
"""What the ready studies of a set need at the import beside their modalities, where that is not the default."""


def import_options(name: str, modalities: Collection[str]) -> list[str]:
    """The options of ``pkdray data import NAME`` that make what a study of these modalities takes, and no more.

    Example:
        >>> " ".join(import_options("biovid", ["emg", "face"]))
        '--part B --protocol 5-fold --modality face --modality emg'
        >>> import_options("affwild2", ["face", "voice"])
        []
    """
    every = MODALITIES[name]
    needed = [one for one in every if one in modalities]
    chosen = [] if len(needed) == len(every) else [f"--modality {one}" for one in needed]
    return [*STUDY_OPTIONS.get(name, ()), *chosen]


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
