"""What must hold for a dataset: unique aligned ids, finite numbers, valid targets, and splits that do not leak.

A frame without a label has NaN for a target, where the dataset says that it has such frames (``missing_targets``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pkdray.data.faults import Faults, some
from pkdray.data.info import DatasetInfo, Modality
from pkdray.data.mapped import MappedArray

SPLITS = ("train", "val", "test")
_IDS = ("sample_id", "subject_id", "sequence_id")


def check_samples(info: DatasetInfo, samples: pd.DataFrame, faults: Faults) -> None:
    """Note every fault of the samples' table.

    Args:
        info: what the dataset says of itself.
        samples: one row a sample, with the columns of samples.parquet.
        faults: where to note them.
    """
    missing = [name for name in (*_IDS, *info.target_columns, "split") if name not in samples]
    if missing:
        faults.add(f"The samples have no column {some(missing)}, only {some(samples.columns)}.", "Add it.")
        return
    unknown = set(samples) - {*_IDS, "frame", "fold", "split", *info.target_columns}
    if unknown:
        # A stray column may well be a clean label or a subject under another name; better asked than ignored.
        faults.add(
            f"The samples have columns of no known meaning: {some(sorted(map(str, unknown)))}.",
            "Remove or rename them.",
        )
    if samples.empty:
        faults.add("The dataset has no samples.", "Give it at least one sample a split.")
        return
    _check_ids(samples, faults)
    _check_frames(samples, faults)
    valid = _check_targets(info, samples, faults)
    _check_splits(info, samples, faults, targets_valid=valid)


def check_modalities(info: DatasetInfo, faults: Faults) -> None:
    """Note a dataset without modalities, and sequences whose T is not that of per-frame targets."""
    if not info.modalities:
        faults.add("The dataset has no modality.", "Give it at least one.")
    if info.target_frames is None:
        return
    for name, modality in info.modalities.items():
        if modality.frames not in (None, info.target_frames):
            faults.add(
                f"Modality '{name}' has {modality.frames} frames a sample, the targets have {info.target_frames}.",
                "Resample the modality to one row a target.",
            )


def check_features(
    name: str, blocks: Iterable[tuple[np.ndarray, np.ndarray]], sample_ids: pd.Index | None, faults: Faults
) -> None:
    """Note ids that a modality lacks, repeats or has alone, and numbers that are not finite.

    Args:
        name: the modality.
        blocks: sample_ids [n] and values [n, ...], one block after another.
        sample_ids: the N ids of the samples' table; None where the blocks are known to be in its order.
        faults: where to note them.
    """
    seen: list[np.ndarray] = []
    bad_values = 0
    bad_samples: list[str] = []
    for ids, values in blocks:
        seen.append(ids)
        finite = np.isfinite(values.reshape(len(values), -1))
        if not finite.all():
            bad_values += int(finite.size - finite.sum())
            bad_samples.extend(ids[~finite.all(axis=1)])
    if sample_ids is not None:
        found = pd.Index(np.concatenate(seen) if seen else [], dtype=object)
        check_alignment(name, found, sample_ids, faults)
    if bad_values:
        faults.add(
            f"Modality '{name}' has {bad_values} values that are NaN or infinite, in {len(bad_samples)} samples: "
            f"{some(bad_samples)}.",
            "Fill them in or remove these samples.",
        )


def check_images(name: str, values: np.ndarray | MappedArray, modality: Modality, count: int, faults: Faults) -> None:
    """Note images that are not uint8 [N, *shape] of the samples' N; their rows are in the samples' order.

    Args:
        name: the modality.
        values: the images.
        modality: what is said of them.
        count: N.
        faults: where to note it.
    """
    wanted = (count, *modality.shape)
    if values.shape != wanted or values.dtype != modality.dtype:
        faults.add(
            f"Modality '{name}' is an array {list(values.shape)} of {values.dtype}; dataset and samples need "
            f"{list(wanted)} of {modality.dtype}.",
            "Import the modality again.",
        )


def check_alignment(name: str, found: pd.Index, sample_ids: pd.Index, faults: Faults) -> None:
    """Note where the ``found`` ids of a modality are not exactly the ``sample_ids``, in any order."""
    repeated = found[found.duplicated()].unique()
    if len(repeated):
        faults.add(
            f"Modality '{name}' has {len(repeated)} sample_ids more than once: {some(repeated)}.",
            "Keep one row a sample.",
        )
    lacking = sample_ids.difference(found, sort=False).unique()
    if len(lacking):
        faults.add(
            f"Modality '{name}' lacks {len(lacking)} of {len(sample_ids)} samples: {some(lacking)}.",
            "Add their features, or remove them from the samples.",
        )
    alone = found.difference(sample_ids, sort=False).unique()
    if len(alone):
        faults.add(
            f"Modality '{name}' has {len(alone)} sample_ids that are not among the samples: {some(alone)}.",
            "Remove them, or add them to the samples.",
        )


def _check_ids(samples: pd.DataFrame, faults: Faults) -> None:
    for column in _IDS:
        empty = int((samples[column].isna() | (samples[column].astype(str) == "")).sum())
        if empty:
            faults.add(f"{empty} samples have no {column}.", "Give every sample one.")
    ids = samples["sample_id"]
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        faults.add(f"{len(repeated)} sample_ids appear more than once: {some(repeated)}.", "Give each sample its own.")


def _check_frames(samples: pd.DataFrame, faults: Faults) -> None:
    if "frame" not in samples:
        return
    if not pd.api.types.is_integer_dtype(samples["frame"]):
        faults.add(f"Column 'frame' is of type {samples['frame'].dtype}.", "Number the frames with integers.")
        return
    twice = samples[samples.duplicated(["sequence_id", "frame"])]
    if len(twice):
        faults.add(
            f"{len(twice)} samples have the frame of another sample of the same sequence: {some(twice['sample_id'])}.",
            "Number the frames of a sequence without repetition.",
        )


def target_values(info: DatasetInfo, samples: pd.DataFrame, column: str) -> np.ndarray:
    """A target column as an array [N] or, of per-frame targets, [N, T], in whatever dtype it has.

    Raises:
        ValueError: samples have different numbers of targets.
    """
    if info.target_frames is None:
        return samples[column].to_numpy()
    return np.stack([np.asarray(cell) for cell in samples[column]])


def _check_targets(info: DatasetInfo, samples: pd.DataFrame, faults: Faults) -> bool:
    valid = True
    for column in info.target_columns:
        try:
            values = target_values(info, samples, column)
        except ValueError:
            values = np.empty((len(samples), 0))
        shape = (len(samples),) if info.target_frames is None else (len(samples), info.target_frames)
        kinds = "iu" if info.task == "classification" else "iuf"
        if values.shape != shape:
            faults.add(
                f"Column '{column}' does not hold {info.target_frames} targets a sample.", "Give every frame one."
            )
            valid = False
            continue
        if values.dtype.kind not in kinds:
            faults.add(
                f"Column '{column}' is of type {samples[column].dtype}.",
                "Give indices into the classes." if info.task == "classification" else "Give numbers.",
            )
            valid = False
            continue
        if info.task == "classification":
            wrong = (values < 0) | (values >= len(info.classes))
            what = f"outside the {len(info.classes)} classes, 0 to {len(info.classes) - 1}"
        elif info.missing_targets:
            wrong = np.isinf(values)
            what = "infinite"
        else:
            wrong = ~np.isfinite(values)
            what = "NaN or infinite"
        if wrong.any():
            ids = samples["sample_id"].to_numpy()[wrong.reshape(len(wrong), -1).any(axis=1)]
            faults.add(
                f"Column '{column}' has {int(wrong.sum())} targets that are {what}, in {len(ids)} samples: "
                f"{some(ids)}.",
                "Correct them or remove these samples.",
            )
            valid = False
    if valid and info.missing_targets:
        _check_labelled(info, samples, faults)
    return valid


def _check_labelled(info: DatasetInfo, samples: pd.DataFrame, faults: Faults) -> None:
    columns = [np.isfinite(target_values(info, samples, column)) for column in info.target_columns]
    empty = ~np.all(columns, axis=0).any(axis=1)
    if empty.any():
        faults.add(
            f"{int(empty.sum())} samples have no frame with a label, all of its targets finite: "
            f"{some(samples['sample_id'].to_numpy()[empty])}.",
            "Remove these samples.",
        )


def _check_splits(info: DatasetInfo, samples: pd.DataFrame, faults: Faults, *, targets_valid: bool) -> None:
    split = samples["split"]
    unknown = split[~split.isin(SPLITS)].unique()
    if len(unknown):
        faults.add(f"Column 'split' has the values {some(unknown)}.", f"Use {some(SPLITS)}.")
        return
    absent = [name for name in SPLITS if not (split == name).any()]
    for name in absent:
        faults.add(f"Split '{name}' has no samples.", "Every dataset needs train, val and test.")
    shared = _in_several(samples, "split")
    if len(shared):
        faults.add(
            f"{len(shared)} subjects are in more than one split: {some(shared)}.",
            "Put all samples of a subject into one split, or a score would only show that a person is recognised.",
        )
    classes_known = targets_valid and info.task == "classification"
    if classes_known and not absent:
        _check_classes(info, samples, split == "train", "the train split", faults)
    if "fold" not in samples:
        return
    folds = samples["fold"]
    if not pd.api.types.is_integer_dtype(folds) or set(folds) != set(range(len(set(folds)))) or len(set(folds)) < 3:
        faults.add(
            f"Column 'fold' has the values {some(sorted(set(folds), key=str))}.",
            "Number at least three folds 0, 1, 2 ... without a gap.",
        )
        return
    shared = _in_several(samples, "fold")
    if len(shared):
        faults.add(
            f"{len(shared)} subjects are in more than one fold: {some(shared)}.",
            "Put all samples of a subject into one fold.",
        )
    if classes_known:
        count = len(set(folds))
        for fold in range(count):
            train = ~folds.isin([fold, (fold + 1) % count])
            _check_classes(info, samples, train, f"the training part of fold {fold}", faults)


def _in_several(samples: pd.DataFrame, column: str) -> pd.Index:
    """Subjects that have more than one value of ``column``."""
    values = samples.groupby("subject_id", sort=True)[column].nunique()
    return values.index[values > 1]


def _check_classes(info: DatasetInfo, samples: pd.DataFrame, train: pd.Series, where: str, faults: Faults) -> None:
    targets = target_values(info, samples, "target")
    mask = train.to_numpy()
    unseen = np.setdiff1d(targets[~mask], targets[mask])
    if len(unseen):
        faults.add(
            f"No sample of {where} is of class {some(info.classes[index] for index in unseen)}, which is asked for "
            "elsewhere.",
            "Split so that every class can be learnt, or leave the class out.",
        )
