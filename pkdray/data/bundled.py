"""The datasets that ship with pkdray."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def bundled_datasets() -> dict[str, Path]:
    """The folders of the datasets that ship with pkdray, by name.

    Example:
        >>> sorted(bundled_datasets())
        ['mfeat']
    """
    samples = Path(str(files("pkdray.data"))) / "samples"
    return {info.parent.name: info.parent for info in sorted(samples.glob("*/dataset.yaml"))}
