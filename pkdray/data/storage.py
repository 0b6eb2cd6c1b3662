"""The Parquet files of a dataset: samples.parquet and features/<modality>.parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pkdray.data.info import DatasetInfo, Modality
from pkdray.errors import DatasetError
from pkdray.files import write_atomic

# A row group is the unit that a reader holds in memory beside the array that it fills.
_GROUP_BYTES = 16 << 20
_VALUES = "values.list.element"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a missing or unreadable Parquet file into a ``DatasetError`` that names it.

    Raises:
        DatasetError: the file is missing, truncated or not Parquet.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing.", cure="Restore it from a copy, or import again.") from error
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{path} cannot be read as Parquet; it is truncated or damaged ({str(error).splitlines()[0]}).",
            cure="Restore it from a copy, or make it again.",
        ) from error


def is_readable(path: Path) -> bool:
    """Whether the file ends in a Parquet footer, which a truncated file does not."""
    try:
        pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return False
    return True


def write_features(path: Path, sample_ids: Sequence[str], values: np.ndarray, *, level: int = 3) -> None:
    """Write one modality, ``values`` [N, ...] as one row-major fixed-size list of float32 a sample.

    Args:
        path: the file to write, atomically.
        sample_ids: N names.
        values: [N, *shape], any real dtype.
        level: zstd's compression level, 1 to 22.

    Raises:
        StorageError: the folder cannot be written.
    """
    size = int(np.prod(values.shape[1:]))
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), size)
    schema = pa.schema([pa.field("sample_id", pa.string(), nullable=False), pa.field("values", kind, nullable=False)])

    def write(temporary: Path) -> None:
        # Splitting a float into its byte planes lets zstd see that exponents repeat; no bit of a number is lost.
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=level,
            use_dictionary=False,
            column_encoding={_VALUES: "BYTE_STREAM_SPLIT"},
        ) as writer:
            for ids, block in blocks(np.asarray(sample_ids, dtype=object), values):
                names = pa.array([str(name) for name in ids], pa.string())
                lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=kind)
                writer.write_table(pa.Table.from_arrays([names, lists], schema=schema))

    write_atomic(path, write)


def blocks(sample_ids: np.ndarray, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An array [N, ...] in blocks of sample_ids [n] and contiguous float32 values [n, ...], one row group each."""
    rows = max(1, _GROUP_BYTES // (4 * int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(values[start : start + rows], dtype=np.float32)
        yield sample_ids[start : start + rows], block


def iterate_features(path: Path, name: str, modality: Modality) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read one modality block by block, so that only one block is in memory beside what the caller keeps.

    Args:
        path: features/<modality>.parquet.
        name: the modality's name, for errors.
        modality: what dataset.yaml says of it.

    Yields:
        sample_ids [n] (object) and values float32 [n, modality.size].

    Raises:
        DatasetError: the file is missing, unreadable, or its columns or its list size are not what dataset.yaml says.
    """
    with reading(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        for column in ("sample_id", "values"):
            if column not in schema.names:
                raise DatasetError(
                    f"{path} has no column '{column}', only {schema.names}.",
                    cure="Import the modality again.",
                )
        rows = max(1, _GROUP_BYTES // (4 * modality.size))
        for batch in file.iter_batches(batch_size=rows, columns=["sample_id", "values"]):
            values = list_values(batch.column("values"), f"{path}: modality '{name}'")
            if values.shape[1] != modality.size:
                raise DatasetError(
                    f"{path} holds {values.shape[1]} values a sample, but dataset.yaml says that modality '{name}' has "
                    f"shape {list(modality.shape)}, {modality.size} values.",
                    cure="Import the modality again.",
                )
            yield np.asarray(batch.column("sample_id").to_pylist(), dtype=object), values


def list_values(column: Any, where: str) -> np.ndarray:
    """A pyarrow list column as a float32 array [n, size].

    Args:
        column: an Arrow array of (fixed-size) lists of numbers.
        where: what the column is, as the beginning of an error's sentence.

    Raises:
        DatasetError: the column holds no lists of numbers, empty cells, or lists of different lengths.
    """
    kind = column.type
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DatasetError(f"{where} has 'values' of type {kind}.", cure="Store one list of numbers a row in 'values'.")
    if column.null_count:
        raise DatasetError(
            f"{where} has {column.null_count} rows without values.", cure="Remove these rows, or fill them in."
        )
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
    else:
        lengths = np.unique(np.diff(column.offsets.to_numpy()))
        if len(lengths) > 1:
            raise DatasetError(
                f"{where} has lists of {lengths[0]} and of {lengths[-1]} values.",
                cure="Give every row a list of the same length.",
            )
        size = int(lengths[0]) if len(lengths) else 0
    with np.errstate(over="ignore"):
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return flat.reshape(len(column), size)


def write_samples(path: Path, samples: pd.DataFrame, info: DatasetInfo) -> None:
    """Write samples.parquet from a validated frame; per-frame targets become fixed-size lists.

    Raises:
        StorageError: the folder cannot be written.
    """
    fields, arrays = [], []
    for column in samples.columns:
        cells = samples[column]
        if column in info.target_columns:
            scalar = pa.int64() if info.task == "classification" else pa.float32()
            kind = scalar
            if info.target_frames is not None:
                kind = pa.list_(pa.field("element", scalar, nullable=False), info.target_frames)
        elif column in ("frame", "fold"):
            kind = pa.int64()
        else:
            kind = pa.string()
        if pa.types.is_fixed_size_list(kind):
            flat = np.stack([np.asarray(cell) for cell in cells]).reshape(-1)
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), type=kind))
        else:
            arrays.append(pa.array(cells.tolist(), kind))
        fields.append(pa.field(column, kind, nullable=False))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_samples(path: Path) -> pd.DataFrame:
    """Read samples.parquet.

    Raises:
        DatasetError: the file is missing or unreadable.
    """
    with reading(path):
        return pq.ParquetFile(path).read().to_pandas()
