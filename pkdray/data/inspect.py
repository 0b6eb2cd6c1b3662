"""What is in a dataset, as plain values to print or to put into a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from pkdray import mirrors
from pkdray.data.dataset import SPLITS, Dataset


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describe a dataset: its origin, its size, its splits and its modalities, as plain JSON-able values.

    Splits carry counts per class, or mean, std, min and max per target and, where frames may lack a label, how many do
    (these count in none of the former); modalities their shape, rate (Hz or None) and
    range of values. ``bytes`` is the size of the folder.

    Raises:
        DatasetError: a modality's file is missing or unreadable.

    Example:
        >>> from pkdray.data.dataset import open_dataset
        >>> describe(open_dataset("mfeat"))["splits"]["val"]["classes"]["7"]
        50
    """
    info = dataset.info
    samples = dataset.samples
    targets = dataset.targets()
    sizes = {file: file.stat().st_size for file in sorted(dataset.path.rglob("*")) if file.is_file()}
    splits = {}
    for name in SPLITS:
        rows = dataset.rows(name)
        splits[name] = {
            "samples": len(rows),
            "subjects": int(samples["subject_id"].iloc[rows].nunique()),
            "sequences": int(samples["sequence_id"].iloc[rows].nunique()),
            **_targets(dataset, targets[rows]),
        }
    modalities = {}
    for name, modality in info.modalities.items():
        values = dataset.features(name)
        modalities[name] = {
            "kind": modality.kind,
            "shape": list(modality.shape),
            "rate": modality.rate,
            # Of images neither is worth reading them all.
            "min": float(values.min()) if isinstance(values, np.ndarray) else 0.0,
            "max": float(values.max()) if isinstance(values, np.ndarray) else 255.0,
            "bytes": sizes[dataset.path / info.file_name(name)],
        }
    return {
        "name": info.name,
        "path": mirrors.shown(dataset.path),
        "task": info.task,
        "fingerprint": dataset.fingerprint,
        "targets": list(info.targets),
        "target_frames": info.target_frames,
        "classes": list(info.classes),
        "samples": len(dataset),
        "subjects": int(samples["subject_id"].nunique()),
        "sequences": int(samples["sequence_id"].nunique()),
        "folds": dataset.folds,
        "splits": splits,
        "modalities": modalities,
        "bytes": sum(sizes.values()),
        "source": info.source,
        "licence": info.licence,
        "citation": info.citation,
        "notes": info.notes,
    }


def _targets(dataset: Dataset, targets: np.ndarray) -> dict[str, Any]:
    info = dataset.info
    if info.task == "classification":
        counts = np.bincount(targets.reshape(-1), minlength=len(info.classes))
        return {"classes": dict(zip(info.classes, counts.tolist(), strict=True))}
    numbers = targets.reshape(-1, len(info.targets)).astype(np.float64)
    labelled = np.isfinite(numbers).all(axis=1)
    return {
        **({"frames": len(numbers), "unlabelled": int((~labelled).sum())} if info.missing_targets else {}),
        "targets": {
            name: {
                "mean": float(column.mean()),
                "std": float(column.std()),
                "min": float(column.min()),
                "max": float(column.max()),
            }
            for name, column in zip(info.targets, numbers[labelled].T, strict=True)
        },
    }
