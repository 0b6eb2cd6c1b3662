"""A user's tables: CSV, Parquet and npz files of labels or of features."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pkdray.data.faults import Faults, some
from pkdray.data.storage import list_values
from pkdray.errors import DatasetError

SUFFIXES = (".csv", ".parquet", ".npz")
# Names and labels are text to the letter: '007' is not 7, and a class may be called 'None' or a sample 'NA'.
_TEXT = ("sample_id", "subject_id", "sequence_id", "split", "target")
_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A"]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table from a CSV, Parquet or npz file (an npz holds one array [N] a column).

    The columns sample_id, subject_id, sequence_id, split, target and target_* of a CSV are text, letter for letter;
    sample_id is text in every format.

    Raises:
        DatasetError: the file is missing, unreadable or empty, of another format, or has no column sample_id.
    """
    path = Path(path)
    _check_suffix(path)
    with _reading(path):
        if path.suffix.lower() == ".csv":
            table = _read_csv(path)
        elif path.suffix.lower() == ".parquet":
            table = pq.ParquetFile(path).read().to_pandas()
        else:
            arrays = _read_npz(path)
            wide = {name: array.shape for name, array in arrays.items() if array.ndim != 1}
            lengths = {name: len(array) for name, array in arrays.items() if name not in wide}
            if wide or len(set(lengths.values())) > 1:
                raise DatasetError(
                    f"{path} has arrays of shapes { ({name: array.shape for name, array in arrays.items()}) }.",
                    cure="Store one array [N] a column.",
                )
            table = pd.DataFrame(arrays)
    if "sample_id" not in table:
        raise _no_sample_id(path, [str(column) for column in table.columns])
    if table.empty:
        raise DatasetError(f"{path} has no rows.", cure="Give it one row a sample.")
    table["sample_id"] = text_column(path, table["sample_id"])
    return table


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one modality's features, as for an import or for new recordings to predict.

    One of three layouts: ``sample_id`` and numeric columns, one a channel (CSV, Parquet); ``sample_id`` and a list
    column ``values`` (Parquet; a dataset's own features file is one); arrays ``sample_id`` [N] and ``values`` [N, d]
    or [N, T, d] (npz). In the first two, a column ``frame`` says that a sample has several rows, one a frame; rows may
    be in any order.

    Returns:
        sample_ids [N], text, in order of first appearance, and values float32 [N, d], or [N, T, d] with frames.

    Raises:
        DatasetError: the file is missing, unreadable, empty or of another format; sample_ids are missing or repeated;
            columns are not numeric; values are NaN or infinite; samples have different numbers of frames.
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix.lower() == ".npz":
        ids, values = _npz_features(path)
        frames = None
    else:
        ids, values, frames = _table_features(path)
    _check_finite(path, ids, values)
    if frames is None:
        repeated = pd.Index(ids)[pd.Index(ids).duplicated()].unique()
        if len(repeated):
            raise DatasetError(
                f"{path} has {len(repeated)} sample_ids more than once: {some(repeated)}.",
                cure="Keep one row a sample, or number the rows of a sequence in a column 'frame'.",
            )
        return ids, values
    names, order, count = order_frames(path, ids, frames)
    return names, values[order].reshape(len(names), count, values.shape[1])


def order_frames(path: Path, ids: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The order that puts N * T rows sample by sample, frame by frame.

    Args:
        path: the table, for errors.
        ids: the sample of each row.
        frames: the frame of each row, integers.

    Returns:
        The N samples in order of first appearance, the rows' order [N * T], and T.

    Raises:
        DatasetError: a frame is repeated within a sample, or samples have different numbers of frames.
    """
    codes, names = pd.factorize(ids)
    order = np.lexsort((frames, codes))
    twice = (np.diff(codes[order]) == 0) & (np.diff(frames[order]) == 0)
    if twice.any():
        row = order[1:][twice][0]
        raise DatasetError(
            f"{path} has frame {frames[row]} of sample '{ids[row]}' more than once, and {int(twice.sum())} such rows "
            "in all.",
            cure="Keep one row a frame.",
        )
    lengths = np.bincount(codes)
    if len(set(lengths.tolist())) > 1:
        short, long = int(lengths.argmin()), int(lengths.argmax())
        raise DatasetError(
            f"{path} has samples of different lengths: '{names[short]}' has {lengths[short]} frames, '{names[long]}' "
            f"has {lengths[long]}.",
            cure="Cut or pad all samples to the same number of frames.",
        )
    return np.asarray(names, dtype=object), order, int(lengths[0])


def frame_numbers(path: Path, frames: pd.Series) -> np.ndarray:
    """A column ``frame`` as int64.

    Raises:
        DatasetError: a frame is not a whole number.
    """
    numbers = pd.to_numeric(frames, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(numbers) | (numbers != np.floor(numbers))
    if wrong.any():
        raise DatasetError(
            f"{path} has the value {shown(frames[wrong].iloc[0])} in column 'frame'.",
            cure="Number the frames with integers.",
        )
    return numbers.astype(np.int64)


def text_column(path: Path, cells: pd.Series) -> pd.Series:
    """A column of names as text: integers are written out, bytes decoded.

    Raises:
        DatasetError: a name is missing, or the names are fractional numbers.
    """
    column = cells.name
    if pd.api.types.is_float_dtype(cells):
        raise DatasetError(
            f"{path} has values of type {cells.dtype} in column '{column}', such as {shown(cells.iloc[0])}.",
            cure="Store them as text or as integers, none missing.",
        )
    empty = cells.isna() | (cells.astype(str) == "")
    if empty.any():
        row = int(np.flatnonzero(empty.to_numpy())[0])
        raise DatasetError(
            f"{path} has {int(empty.sum())} rows without a {column}, the first being row {row + 1} of the data.",
            cure="Fill it in for every row.",
        )
    if len(cells) and isinstance(cells.iloc[0], bytes):
        return cells.map(lambda name: name.decode())
    return cells.astype(str)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever the readers say of a bad file into a ``DatasetError`` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist.", cure="Check the path.") from error
    except (OSError, ValueError, EOFError, KeyError, pa.ArrowException, zipfile.BadZipFile) as error:
        # pandas' parser errors and undecodable text are ValueErrors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{path} cannot be read; it is truncated, damaged or not {path.suffix[1:]} ({reason}).",
            cure="Check that the file is whole, or write it again.",
        ) from error


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise DatasetError(
            f"{path} has the suffix '{path.suffix}'.", cure=f"Convert it to one of {', '.join(SUFFIXES)}."
        )


def _no_sample_id(path: Path, columns: list[str]) -> DatasetError:
    cure = "Add a column 'sample_id' that names the sample of each row."
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        cure = "Separate the columns with commas."
    return DatasetError(f"{path} has no column 'sample_id', only {some(columns)}.", cure=cure)


def _read_csv(path: Path) -> pd.DataFrame:
    header = pd.read_csv(path, nrows=0, encoding="utf-8-sig", skipinitialspace=True)
    names = [str(name) for name in header.columns]
    unnamed = [position + 1 for position, name in enumerate(names) if name.startswith("Unnamed: ")]
    if unnamed:
        # Most often the row numbers that pandas writes; as a feature they would give the order of the rows away.
        raise DatasetError(
            f"{path} has no name for column {unnamed[0]} of {len(names)}.",
            cure="Name the column or remove it (pandas: to_csv(..., index=False)).",
        )
    text = [name for name in names if name in _TEXT or name.startswith("target_")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(
                path,
                dtype=dict.fromkeys(text, str),
                keep_default_na=False,
                na_values={name: _MISSING for name in names if name not in text},
                encoding="utf-8-sig",
                skipinitialspace=True,
                index_col=False,
                low_memory=False,
            )
        except pd.errors.ParserWarning as error:
            raise DatasetError(
                f"{path} has {len(names)} column names, but more cells in its rows.",
                cure="Name every column, and end no row with a comma.",
            ) from error
    for name in text:
        table[name] = table[name].str.strip()
    return table


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # Object arrays would be pickles, which may run any code; they are never read.
    with np.load(path, allow_pickle=False) as archive:
        if not hasattr(archive, "files"):
            raise ValueError("not a zip archive of arrays")
        return {name: archive[name] for name in archive.files}


def _npz_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with _reading(path):
        arrays = _read_npz(path)
        for name in ("sample_id", "values"):
            if name not in arrays:
                raise DatasetError(
                    f"{path} has no array '{name}', only {some(arrays)}.",
                    cure="Store 'sample_id' [N] and 'values' [N, d] or [N, T, d].",
                )
    ids, values = arrays["sample_id"], arrays["values"]
    if ids.ndim != 1 or values.ndim not in (2, 3) or len(ids) != len(values) or values.dtype.kind not in "iufb":
        raise DatasetError(
            f"{path} has 'sample_id' {list(ids.shape)} and 'values' {list(values.shape)} of {values.dtype}.",
            cure="Store 'sample_id' [N] and numbers 'values' [N, d] or [N, T, d].",
        )
    if values.size == 0:
        raise DatasetError(f"{path} is empty: 'values' is {list(values.shape)}.", cure="Give it at least one sample.")
    names = text_column(path, pd.Series(ids, name="sample_id")).to_numpy(dtype=object)
    return names, _float32(values)


def _table_features(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    lists = None
    if path.suffix.lower() == ".parquet":
        with _reading(path), pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "values" in names and pa.types.is_nested(file.schema_arrow.field("values").type):
                lists = file.read(columns=["values"]).column("values").combine_chunks()
                # pandas stores the index of a filtered frame as a column of its own.
                names = [name for name in names if not name.startswith("__index_level_")]
                extra = [name for name in names if name not in ("sample_id", "frame", "values")]
                if "sample_id" not in names or extra:
                    raise DatasetError(
                        f"{path} has the columns {some(names)}.",
                        cure="Beside a list column 'values', give 'sample_id' and at most 'frame'.",
                    )
                columns = [name for name in names if name != "values"]
                table = file.read(columns=columns).to_pandas()
    if lists is None:
        table = read_table(path)
    elif table.empty:
        raise DatasetError(f"{path} has no rows.", cure="Give it one row a sample.")
    ids = text_column(path, table["sample_id"]).to_numpy(dtype=object)
    frames = frame_numbers(path, table["frame"]) if "frame" in table else None
    values = _numeric(path, table, ids) if lists is None else list_values(lists, str(path))
    if values.shape[1] == 0:
        raise DatasetError(f"{path} has no feature columns.", cure="Give it at least one numeric column.")
    return ids, values, frames


def _numeric(path: Path, table: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    channels = table.drop(columns=["sample_id", "frame"], errors="ignore")
    faults = Faults()
    for column in channels.columns:
        cells = channels[column]
        if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_complex_dtype(cells):
            continue
        numbers = pd.to_numeric(cells.astype(str), errors="coerce")
        wrong = np.flatnonzero((numbers.isna() & cells.notna()).to_numpy())
        row = int(wrong[0]) if len(wrong) else 0
        faults.add(
            f"{path} has a column '{column}' that is not numeric: {shown(cells.iloc[row])} at sample '{ids[row]}'.",
            "Remove the column, or give numbers.",
        )
    faults.raise_if_any(str(path))
    values = np.empty(channels.shape, dtype=np.float32)
    for position, column in enumerate(channels.columns):
        values[:, position] = _float32(channels[column].to_numpy(dtype=np.float64, na_value=np.nan))
    return values


def _float32(values: np.ndarray) -> np.ndarray:
    # What float32 cannot hold becomes infinite, and is reported as such.
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _check_finite(path: Path, ids: np.ndarray, values: np.ndarray) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    rows = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
    raise DatasetError(
        f"{path} has {int(finite.size - finite.sum())} values that are missing, NaN or infinite (as float32), in "
        f"samples {some(pd.unique(ids[rows]))}.",
        cure="Fill them in or remove these samples.",
    )


def shown(value: object) -> str:
    """A cell as a user would write it: a numpy or pandas scalar without its type."""
    return repr(value.item()) if isinstance(value, np.generic) else repr(value)
