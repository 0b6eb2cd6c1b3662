"""Import precomputed features: a labels table and one table of features a modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from pkdray.data import validation
from pkdray.data.dataset import Dataset, DatasetInfo, Modality, check_destination, write_dataset
from pkdray.data.faults import Faults, some
from pkdray.data.importers.labels import Labels, Task, read_labels
from pkdray.data.info import info_error
from pkdray.data.tables import read_features


def import_features(
    dest: Path,
    *,
    name: str,
    task: Task,
    labels: Path,
    modalities: Mapping[str, Path],
    splits: Sequence[float] = (0.7, 0.15, 0.15),
    folds: int | None = None,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
    licence: str = "",
    source: str = "",
    citation: str = "",
    notes: str = "",
) -> Dataset:
    """Make a dataset of a labels table and a table of features per modality (CSV, Parquet or npz).

    Args:
        dest: the folder to make; it may exist if it is empty.
        name: a short name for reports.
        task: ``classification`` or ``regression``.
        labels: columns sample_id and target (regression: or several target_<name>), optionally subject_id (else each
            sample is its own subject), sequence_id (else the subject is the sequence), frame and split (train, val or
            validation or dev, test). A sample_id in several rows with distinct frames has one target a frame.
        modalities: by name, tables as ``read_features`` takes them, with the same sample_ids in any order.
        splits: shares of train, val and test by which subjects are dealt, where labels has no column split.
        folds: the number of folds to deal the subjects to, or None.
        seed: of splits and folds.
        rates: frames a second (Hz) by modality, where known.
        licence: what one may do with the data.
        source: where they come from.
        citation: what to cite.
        notes: whatever a user of the dataset must know.

    Raises:
        DatasetError: ``dest`` is not empty, or the tables have faults; all faults of all tables are named at once.
        StorageError: the folder cannot be written.
    """
    dest = Path(dest)
    check_destination(dest)
    faults = Faults()
    said = read_labels(labels, task, splits, folds, seed, faults)
    rates = dict(rates or {})
    if strangers := set(rates) - set(modalities):
        faults.add(f"There are rates for {some(sorted(strangers))}, which are no modalities.", "Remove them.")
    features: dict[str, np.ndarray] = {}
    for modality, table in modalities.items():
        with faults.catch():
            ids, values = read_features(table)
            features[modality] = values if said is None else _aligned(modality, ids, values, said, faults)
    # Without labels, stand-ins let the modalities' names and rates be checked all the same.
    targets = said.targets if said else ("target",)
    classes = said.classes if said else ("0", "1") if task == "classification" else ()
    try:
        info = DatasetInfo(
            name=name,
            task=task,
            targets=targets,
            classes=classes,
            target_frames=said.target_frames if said else None,
            modalities={
                modality: Modality(shape=values.shape[1:], rate=rates.get(modality))
                for modality, values in features.items()
            },
            source=source,
            licence=licence,
            citation=citation,
            notes=notes,
        )
    except ValidationError as error:
        with faults.catch():
            raise info_error(f"Dataset '{name}'", error) from error
    else:
        if features or not modalities:
            validation.check_modalities(info, faults)
        if said is not None:
            validation.check_samples(info, said.samples, faults)
    faults.raise_if_any("The import")
    assert said is not None, "labels that could not be read are a fault"
    return write_dataset(dest, info, said.samples, features)


def _aligned(modality: str, ids: np.ndarray, values: np.ndarray, said: Labels, faults: Faults) -> np.ndarray:
    """``values`` in the order of the samples; as they are if ids are missing, which is then noted."""
    found = pd.Index(ids, dtype=object)
    wanted = pd.Index(said.samples["sample_id"], dtype=object)
    validation.check_alignment(modality, found, wanted, faults)
    rows = found.get_indexer(wanted)
    if (rows < 0).any() or np.array_equal(rows, np.arange(len(values))):
        return values
    return values[rows]
