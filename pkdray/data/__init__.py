"""Data: the on-disk dataset, its importers and the bundled samples."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pkdray.data.bundled import bundled_datasets
    from pkdray.data.dataset import Dataset, open_dataset, write_dataset
    from pkdray.data.importers.features import import_features
    from pkdray.data.info import DatasetInfo, Modality
    from pkdray.data.inspect import describe
    from pkdray.data.normalisation import Standardizer
    from pkdray.data.splits import folds_by_subject, split_by_subject
    from pkdray.data.tables import read_features, read_table

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Modality",
    "Standardizer",
    "bundled_datasets",
    "describe",
    "folds_by_subject",
    "import_features",
    "open_dataset",
    "read_features",
    "read_table",
    "split_by_subject",
    "write_dataset",
]

# The names are looked up on first use: the command line must start without waiting for pandas and pyarrow.
_HOMES = {
    "Dataset": "dataset",
    "DatasetInfo": "info",
    "Modality": "info",
    "Standardizer": "normalisation",
    "bundled_datasets": "bundled",
    "describe": "inspect",
    "folds_by_subject": "splits",
    "import_features": "importers.features",
    "open_dataset": "dataset",
    "read_features": "tables",
    "read_table": "tables",
    "split_by_subject": "splits",
    "write_dataset": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
