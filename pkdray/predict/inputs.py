"""What a student is given: features and images of samples as arrays, tables and files, checked and aligned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from pkdray.data.faults import Faults, some
from pkdray.data.mapped import MappedArray
from pkdray.data.tables import frame_numbers, order_frames, read_features
from pkdray.errors import DatasetError

NPY = ".npy"

Source: TypeAlias = Any
"""One modality's samples: an array, a table with ``sample_id``, or the path of a file (CSV, Parquet, npz, npy)."""


def read_modality(name: str, source: Source, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray]:
    """The features of one modality.

    Args:
        name: the modality.
        source: its samples.
        shape: of a sample.

    Returns:
        Sample ids [N], None for a bare array, and values float32 [N, *shape].

    Raises:
        DatasetError: they are missing, of another shape, or not finite.
    """
    ids: np.ndarray | None
    if isinstance(source, str | Path) and Path(source).suffix.lower() == NPY:
        ids, values = None, _numbers(name, _open(Path(source)).gather())
    elif isinstance(source, str | Path):
        ids, values = read_features(Path(source))
    elif isinstance(source, pd.DataFrame):
        ids, values = _from_table(name, source)
    else:
        ids, values = None, _numbers(name, source)
    hint = (
        " In a table, a column 'frame' numbers the frames of a sample." if (len(shape), values.ndim) == (2, 2) else ""
    )
    _check_shape("features", name, values.shape, shape, hint)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise DatasetError(
            f"The features of '{name}' are missing, NaN or infinite (as float32) in {len(rows)} samples: "
            f"{some(rows if ids is None else ids[rows])}.",
            cure="Fill them in or remove these samples.",
        )
    return ids, np.ascontiguousarray(values)


def read_images(name: str, source: Source, shape: tuple[int, ...]) -> tuple[None, np.ndarray | MappedArray]:
    """The images of one modality; a file stays on the disk.

    Args:
        name: the modality.
        source: an array, or the path of a .npy file.
        shape: of a sample, [..., H, W, 3].

    Returns:
        None, for there are no sample ids, and values uint8 [N, *shape].

    Raises:
        DatasetError: they are missing, of another shape or type.
    """
    values: np.ndarray | MappedArray
    if isinstance(source, str | Path):
        if Path(source).suffix.lower() != NPY:
            raise DatasetError(
                f"The images of '{name}' are to be read from {source}.",
                cure="Give uint8 RGB as a .npy file; a video goes in by itself, not under a modality's name.",
            )
        values = _open(Path(source))
    else:
        values = np.asarray(source)
    _check_shape("images", name, values.shape, shape)
    if values.dtype != np.uint8:
        raise DatasetError(
            f"The images of '{name}' are {values.dtype}; the student needs uint8.", cure="Give RGB from 0 to 255."
        )
    return None, values


def take(values: np.ndarray | MappedArray, rows: slice) -> np.ndarray:
    """Some samples as an array in memory."""
    return values.gather(rows) if isinstance(values, MappedArray) else np.array(values[rows])


def _open(path: Path) -> MappedArray:
    try:
        return MappedArray.open(path)
    except TypeError as error:
        raise DatasetError(f"{path} holds a single number.", cure="Give an array [N, ...].") from error


def _check_shape(what: str, name: str, found: tuple[int, ...], shape: tuple[int, ...], hint: str = "") -> None:
    if found[1:] != shape or found[0] == 0:
        axes = ", ".join(["N", *map(str, shape)])
        cure = f"Give [{axes}], with N > 0, extracted as for the dataset that the student was trained on."
        raise DatasetError(
            f"The {what} of '{name}' have shape {list(found)}; the student needs [{axes}].", cure=f"{cure}{hint}"
        )


def _from_table(name: str, table: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray]:
    where = Path(f"the table of '{name}'")
    channels = table.drop(columns=["sample_id", "frame"], errors="ignore")
    if list(channels.columns) == ["values"] and channels["values"].dtype == object:
        try:
            values = _numbers(name, np.stack([np.asarray(value) for value in channels["values"]]))
        except ValueError as error:
            raise DatasetError(
                f"The lists in column 'values' of '{name}' differ in length.", cure="Give each sample as many numbers."
            ) from error
    else:
        values = _numbers(name, channels.to_numpy(na_value=np.nan) if len(channels.columns) else np.empty((0, 0)))
    if "sample_id" not in table:
        if "frame" in table:
            raise DatasetError(
                f"The table of '{name}' has a column 'frame' but none 'sample_id'.", cure="Name the sample of each row."
            )
        return None, values
    if table["sample_id"].isna().any():
        raise DatasetError(f"The table of '{name}' has rows without a sample_id.", cure="Name the sample of every row.")
    ids = table["sample_id"].astype(str).to_numpy(dtype=object)
    if "frame" in table:
        ids, order, count = order_frames(where, ids, frame_numbers(where, table["frame"]))
        return ids, values[order].reshape(len(ids), count, values.shape[1])
    repeated = pd.Index(ids)[pd.Index(ids).duplicated()].unique()
    if len(repeated):
        raise DatasetError(
            f"The table of '{name}' has {len(repeated)} sample_ids more than once: {some(repeated)}.",
            cure="Keep one row a sample, or number the rows of a sequence in a column 'frame'.",
        )
    return ids, values


def _numbers(name: str, source: Source) -> np.ndarray:
    try:
        values = np.asarray(source)
        # An object array may hold numbers beside a missing cell; text is refused.
        if values.dtype.kind not in "iufb" and not (values.dtype.kind == "O" and values.ndim > 1):
            raise ValueError(f"received {values.dtype}")
        with np.errstate(over="ignore"):
            return values.astype(np.float32, copy=False)
    except (TypeError, ValueError, RuntimeError) as error:
        # RuntimeError is torch's, for a tensor that needs gradients.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DatasetError(
            f"The features of '{name}' are not an array of numbers ({reason}).",
            cure="Give a numeric array [N, d] or [N, T, d], or a table with sample_id and numeric columns.",
        ) from error


def aligned(
    found: Mapping[str, tuple[np.ndarray | None, np.ndarray | MappedArray]],
) -> tuple[list[str], dict[str, np.ndarray | MappedArray]]:
    """The samples in the order of the first modality, and each modality's values in that order.

    Args:
        found: sample ids, or None, and values by modality.

    Raises:
        DatasetError: modalities have other samples, or other numbers of them.
    """
    first = next(iter(found))
    bare = [name for name, (ids, _) in found.items() if ids is None]
    if bare and len(bare) < len(found):
        raise DatasetError(
            f"{some(bare)} has no sample_ids, but {some(name for name in found if name not in bare)} has.",
            cure="Give arrays for all modalities, in one order, or tables with a column sample_id for all.",
        )
    if bare:
        lengths = {name: len(values) for name, (_, values) in found.items()}
        if len(set(lengths.values())) > 1:
            raise DatasetError(
                f"The modalities have different numbers of samples: {lengths}.",
                cure="Give the same samples in the same order, or tables with a column sample_id.",
            )
        return [str(row) for row in range(lengths[first])], {name: values for name, (_, values) in found.items()}
    order = pd.Index(np.asarray(found[first][0]))
    faults = Faults()
    arrays: dict[str, np.ndarray | MappedArray] = {}
    for name, (ids, values) in found.items():
        index = pd.Index(np.asarray(ids))
        for missing, where, whose in ((order.difference(index), name, first), (index.difference(order), first, name)):
            if len(missing):
                faults.add(
                    f"{len(missing)} samples of '{whose}' are missing in '{where}': {some(missing)}.",
                    "Give every sample in every modality.",
                )
        if not faults:
            arrays[name] = values[index.get_indexer(order)]
    faults.raise_if_any("The input")
    return [str(name) for name in order], arrays
