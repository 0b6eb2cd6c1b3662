"""A labels table: which samples there are, whose they are, and what they are to be recognised as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pkdray.data.faults import Faults, some
from pkdray.data.splits import folds_by_subject, split_by_subject
from pkdray.data.tables import frame_numbers, order_frames, read_table, shown, text_column
from pkdray.errors import DatasetError

Task = Literal["classification", "regression"]

_KNOWN = ("sample_id", "subject_id", "sequence_id", "frame", "split", "target")
_ALIASES = {"validation": "val", "dev": "val"}
_WHOLE = re.compile(r"-?\d+")
_WHOLE_AS_FLOAT = re.compile(r"(-?\d+)\.0+")


@dataclass(frozen=True)
class Labels:
    """What a labels table says.

    Args:
        samples: one row a sample, as ``write_dataset`` takes it.
        targets: names of the targets.
        classes: names of the classes; empty for regression.
        target_frames: T where each sample has one target a frame, else None.
    """

    samples: pd.DataFrame
    targets: tuple[str, ...]
    classes: tuple[str, ...]
    target_frames: int | None


def read_labels(
    path: Path, task: Task, splits: Sequence[float], folds: int | None, seed: int, faults: Faults
) -> Labels | None:
    """Read a labels table; None if a fault, which is then noted, leaves no table to speak of.

    Args:
        path: a table with sample_id, target (or several target_<name>) and optionally subject_id (else each sample is
            its own subject), sequence_id (else the subject is the sequence), frame and split. A sample_id with several
            rows of distinct frames has one target a frame.
        task: ``classification`` (any labels) or ``regression`` (numbers).
        splits: shares of train, val and test, where the table has no column split.
        folds: the number of folds to add, or None.
        seed: of splits and folds.
        faults: where to note what is wrong.
    """
    with faults.catch():
        return _Reader(Path(path), task, faults).read(splits, folds, seed)
    return None


class _Reader:
    def __init__(self, path: Path, task: Task, faults: Faults) -> None:
        self.path = path
        self.task = task
        self.faults = faults
        self.table = read_table(path)

    def read(self, splits: Sequence[float], folds: int | None, seed: int) -> Labels | None:
        table = self.table
        known_before = self.faults.count
        columns = self._target_columns()
        self._check_columns()
        rows = pd.DataFrame({"sample_id": table["sample_id"]})
        rows["subject_id"] = self._text("subject_id", rows["sample_id"])
        rows["sequence_id"] = self._text("sequence_id", rows["subject_id"])
        if "frame" in table:
            with self.faults.catch():
                rows["frame"] = frame_numbers(self.path, table["frame"])
        classes: tuple[str, ...] = ()
        for column in columns:
            with self.faults.catch():
                if self.task == "classification":
                    rows[column], classes = self._classes(column)
                else:
                    rows[column] = self._numbers(column)
        if "split" in table:
            rows["split"] = self._split()
        self._check_ids(rows)
        if self.faults.count > known_before:
            return None
        # Rows, not samples, are dealt: with a target a frame, a sample may show several classes.
        strata = rows["target"].to_numpy() if self.task == "classification" else None
        subjects = rows["subject_id"].to_numpy(dtype=object)
        if "split" not in rows:
            rows["split"] = split_by_subject(subjects, strata, splits, seed)
        if folds is not None:
            rows["fold"] = folds_by_subject(subjects, folds, seed, strata)
        frames = None
        if rows["sample_id"].duplicated().any():
            rows, frames = self._gather(rows, columns)
        targets = tuple(name.removeprefix("target_") for name in columns)
        return Labels(rows.reset_index(drop=True), targets, classes, frames)

    def _target_columns(self) -> list[str]:
        named = [column for column in self.table.columns if str(column).startswith("target_")]
        if self.task == "classification" or not named:
            if "target" not in self.table:
                raise DatasetError(
                    f"{self.path} has no column 'target', only {some(self.table.columns)}.",
                    cure="Add it"
                    + (", or target_<name> columns for several targets." if self.task == "regression" else "."),
                )
            return ["target"]
        if "target" in self.table:
            self.faults.add(
                f"{self.path} has both 'target' and {some(named)}.", "Keep either 'target' or target_<name> columns."
            )
        return named

    def _check_columns(self) -> None:
        unknown = [
            column
            for column in self.table.columns
            if column not in _KNOWN and (self.task == "classification" or not str(column).startswith("target_"))
        ]
        if unknown:
            # Ignoring them would let a misspelt 'subject' leak people between the splits in silence.
            self.faults.add(
                f"{self.path} has columns of no known meaning: {some(unknown)}.",
                f"Rename or remove them; known are {', '.join(_KNOWN)}"
                + (" and target_<name>." if self.task == "regression" else "."),
            )

    def _text(self, column: str, default: pd.Series) -> pd.Series:
        if column not in self.table:
            return default
        with self.faults.catch():
            return text_column(self.path, self.table[column])
        return default

    def _classes(self, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
        cells = self.table[column]
        empty = (cells.isna() | (cells.astype(str) == "")).to_numpy()
        if empty.any():
            raise DatasetError(
                f"{self.path} has {int(empty.sum())} rows without a target, at samples "
                f"{some(self.table['sample_id'][empty].unique())}.",
                cure="Label them or remove them.",
            )
        names = cells.astype(str).to_numpy(dtype=object)
        whole = [_WHOLE_AS_FLOAT.fullmatch(name) for name in names]
        if all(whole):
            names = np.array([match[1] for match in whole if match], dtype=object)
        elif pd.api.types.is_float_dtype(cells):
            raise DatasetError(
                f"{self.path} has fractional targets, such as {shown(cells.iloc[whole.index(None)])}.",
                cure="Use task regression, or name the classes.",
            )
        classes = sorted(set(names))
        if all(_WHOLE.fullmatch(name) for name in classes):
            classes.sort(key=int)
        return pd.Index(classes, dtype=object).get_indexer(pd.Index(names)).astype(np.int64), tuple(classes)

    def _numbers(self, column: str) -> np.ndarray:
        cells = self.table[column]
        with np.errstate(over="ignore"):
            numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan).astype(np.float32)
        wrong = ~np.isfinite(numbers)
        if wrong.any():
            raise DatasetError(
                f"{self.path} has {int(wrong.sum())} values in column '{column}' that are not finite numbers, such as "
                f"{shown(cells[wrong].iloc[0])}, at samples {some(self.table['sample_id'][wrong].unique())}.",
                cure="Correct them or remove these samples.",
            )
        return numbers

    def _split(self) -> pd.Series:
        said = self.table["split"].astype(str).str.strip().str.lower()
        split = said.replace(_ALIASES)
        unknown = split[~split.isin(["train", "val", "test"])].unique()
        if len(unknown):
            self.faults.add(
                f"{self.path} has the splits {some(unknown)}.", "Use train, val (or validation, dev) and test."
            )
        return split

    def _check_ids(self, rows: pd.DataFrame) -> None:
        ids = rows["sample_id"]
        if not ids.duplicated().any():
            return
        if "frame" not in self.table:
            repeated = ids[ids.duplicated()].unique()
            self.faults.add(
                f"{self.path} has {len(repeated)} sample_ids more than once: {some(repeated)}.",
                "Keep one row a sample, or number the rows of a sequence in a column 'frame'.",
            )
            return
        for column in ("subject_id", "sequence_id", "split"):
            if column in rows:
                values = rows.groupby("sample_id", sort=False)[column].nunique()
                mixed = values.index[values > 1]
                if len(mixed):
                    self.faults.add(
                        f"{self.path} has {len(mixed)} samples with more than one {column}: {some(mixed)}.",
                        "Give all frames of a sample the same.",
                    )

    def _gather(self, rows: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, int]:
        """One row a sample, the targets as arrays [T] in the order of the frames."""
        order, count = order_frames(self.path, rows["sample_id"].to_numpy(dtype=object), rows["frame"].to_numpy())[1:]
        rows = rows.iloc[order].reset_index(drop=True)
        samples = rows.iloc[::count].drop(columns=["frame", *columns]).reset_index(drop=True)
        for column in columns:
            samples[column] = pd.Series(list(rows[column].to_numpy().reshape(-1, count)), dtype=object)
        return samples, count
