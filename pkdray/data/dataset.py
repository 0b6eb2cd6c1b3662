"""A dataset on disk: dataset.yaml, samples.parquet, and features/<modality>.parquet or images/<modality>.npy."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from pkdray import mirrors
from pkdray.data import storage, validation
from pkdray.data.bundled import bundled_datasets
from pkdray.data.faults import Faults, some
from pkdray.data.info import DatasetInfo, Modality, info_error, read_info
from pkdray.data.mapped import MappedArray, write_mapped
from pkdray.data.validation import SPLITS
from pkdray.errors import DatasetError
from pkdray.files import checksum, storage_errors, sync_folder, write_yaml

__all__ = ["SPLITS", "Dataset", "DatasetInfo", "Modality", "open_dataset", "write_dataset"]

_COLUMNS = ("sample_id", "subject_id", "sequence_id", "frame", "split", "fold")
_HEADER = "A pkdray dataset. The checksums and the fingerprint below hold for these files as they are."


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A dataset opened for reading; make one with ``Dataset.open``, ``open_dataset`` or ``write_dataset``.

    All arrays are in the order of ``samples``, whatever the order of rows in a modality's file.

    Args:
        path: the dataset's folder.
        info: what dataset.yaml says.

    Example:
        >>> mfeat = open_dataset("mfeat")
        >>> mfeat.features("pix").shape, mfeat.targets().shape, len(mfeat.rows("train"))
        ((2000, 240), (2000,), 1000)
    """

    path: Path
    info: DatasetInfo
    _samples: pd.DataFrame
    _cache: dict[str, np.ndarray | MappedArray] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Dataset:
        """Open a dataset's folder.

        Args:
            path: the folder.
            verify: compare every file with its checksum and check every feature, which reads all files once. Without,
                only the samples' table is checked: for workers that open what their driver has verified.

        Raises:
            DatasetError: a file is missing, truncated or altered, or ``validate`` finds a fault.
        """
        path = Path(path)
        info = read_info(path / "dataset.yaml")
        faults = Faults()
        present = []
        for name in info.file_names:
            if (path / name).is_file():
                present.append(name)
            else:
                faults.add(f"{path / name} is missing.", "Restore it from a copy, or import again.")
        if verify:
            for name in present:
                _check_checksum(path, name, info, faults)
            if not faults and info.fingerprint != info.computed_fingerprint():
                faults.add(
                    f"{path / 'dataset.yaml'} was altered: it names the fingerprint {info.fingerprint!r}, but what it "
                    f"says gives {info.computed_fingerprint()!r}.",
                    "Undo the change, or import again with what you want to say.",
                )
        faults.raise_if_any(f"Dataset {path}")
        dataset = cls(path, info, storage.read_samples(path / "samples.parquet"))
        if verify:
            dataset.validate()
        else:
            validation.check_samples(info, dataset._samples, faults)
            faults.raise_if_any(f"Dataset {path}")
        return dataset

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {len(self)} samples, fingerprint {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._samples)

    def __reduce__(self) -> tuple[object, ...]:
        # Cached features stay behind: a pickle that goes to a worker must not carry gigabytes that it can read itself.
        return (type(self), (self.path, self.info, self._samples))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the files and of dataset.yaml; the same wherever the folder lies."""
        return self.info.fingerprint

    @property
    def samples(self) -> pd.DataFrame:
        """The N rows of samples.parquet; changing the frame does not change the dataset."""
        return self._samples.copy(deep=False)

    @property
    def folds(self) -> int:
        """The number of folds k, 0 without a fold column."""
        return int(self._samples["fold"].max()) + 1 if "fold" in self._samples else 0

    def features(self, modality: str) -> np.ndarray | MappedArray:
        """One modality [N, *shape]: features as a read-only float32 array, read on first use and kept; images mapped.

        Raises:
            DatasetError: there is no such modality, or its file is unreadable or does not match the samples.
        """
        if modality not in self._cache:
            self._cache[modality] = self._read(modality)
        return self._cache[modality]

    def _read(self, name: str) -> np.ndarray | MappedArray:
        if name not in self.info.modalities:
            raise DatasetError(
                f"Dataset '{self.info.name}' has no modality '{name}'.",
                cure=f"Choose from {', '.join(self.info.modalities)}.",
            )
        modality = self.info.modalities[name]
        if modality.kind == "images":
            faults = Faults()
            images = MappedArray.open(self._file(name))
            validation.check_images(name, images, modality, len(self._samples), faults)
            faults.raise_if_any(f"Dataset {self.path}")
            return images
        index = pd.Index(self._samples["sample_id"], dtype=object)
        values = np.empty((len(index), modality.size), dtype=np.float32)
        found = []
        for ids, block in storage.iterate_features(self._file(name), name, modality):
            rows = index.get_indexer(pd.Index(ids, dtype=object))
            values[rows[rows >= 0]] = block[rows >= 0]
            found.append(ids)
        faults = Faults()
        ids = np.concatenate(found) if found else np.empty(0, dtype=object)
        validation.check_alignment(name, pd.Index(ids, dtype=object), index, faults)
        faults.raise_if_any(f"Dataset {self.path}")
        values = values.reshape(len(index), *modality.shape)
        values.flags.writeable = False
        return values

    def _file(self, modality: str) -> Path:
        return self.path / self.info.file_name(modality)

    def targets(self) -> np.ndarray:
        """The targets.

        Returns:
            Classification: int64 indices into ``info.classes``, [N] or, one a frame, [N, T].
            Regression: float32 [N, n] or [N, T, n] with n = len(info.targets); with ``info.missing_targets`` a frame
            without a label has NaN in at least one of them.
        """
        columns = [validation.target_values(self.info, self._samples, name) for name in self.info.target_columns]
        if self.info.task == "classification":
            return columns[0].astype(np.int64)
        return np.stack(columns, axis=-1).astype(np.float32)

    def rows(self, split: str, fold: int | None = None) -> np.ndarray:
        """The rows of a split, ascending int64.

        Args:
            split: ``train``, ``val`` or ``test``.
            fold: None for the ``split`` column; i to take fold i of k as test, fold (i + 1) % k as val, the others as
                train.

        Raises:
            DatasetError: no such split, no fold column, or no such fold.
        """
        if split not in SPLITS:
            raise DatasetError(f"There is no split '{split}'.", cure=f"Choose from {', '.join(SPLITS)}.")
        if fold is None:
            return np.flatnonzero((self._samples["split"] == split).to_numpy()).astype(np.int64)
        count = self.folds
        if count == 0:
            raise DatasetError(
                f"Dataset '{self.info.name}' has no folds, so fold {fold} cannot be used.",
                cure="Import it with folds, or leave fold out.",
            )
        if not 0 <= fold < count:
            raise DatasetError(
                f"Dataset '{self.info.name}' has no fold {fold}.", cure=f"Choose a fold from 0 to {count - 1}."
            )
        folds = self._samples["fold"].to_numpy()
        parts = {"test": folds == fold, "val": folds == (fold + 1) % count}
        parts["train"] = ~(parts["test"] | parts["val"])
        return np.flatnonzero(parts[split]).astype(np.int64)

    def sequences(self) -> np.ndarray:
        """The sequence of each sample as an int64 code [N], numbered from 0 in order of appearance."""
        codes, _ = pd.factorize(self._samples["sequence_id"])
        return codes.astype(np.int64)

    def validate(self) -> None:
        """Check everything that must hold, reading each modality once, block by block.

        Raises:
            DatasetError: ids that are repeated or not the same in all files, features that are NaN or infinite, invalid
                targets, subjects in several splits, classes that cannot be learnt, empty splits: all at once.
        """
        faults = Faults()
        validation.check_modalities(self.info, faults)
        validation.check_samples(self.info, self._samples, faults)
        if "sample_id" in self._samples:
            ids = pd.Index(self._samples["sample_id"], dtype=object)
            for name, modality in self.info.modalities.items():
                if modality.kind == "images":
                    with faults.catch():
                        images = MappedArray.open(self._file(name))
                        validation.check_images(name, images, modality, len(ids), faults)
                    continue
                blocks = storage.iterate_features(self._file(name), name, modality)
                with faults.catch():
                    validation.check_features(name, blocks, ids, faults)
        faults.raise_if_any(f"Dataset {self.path}")


def open_dataset(name_or_path: str | Path, verify: bool = True) -> Dataset:
    """Open a bundled dataset by its name, or any by its folder (``./mfeat`` for a folder that has a bundled name).

    One on remote storage, named by its URI, is brought to this machine first, as far as it is not here.

    Raises:
        DatasetError: neither exists, or the dataset is faulty.
        StorageError: its storage cannot be read.
    """
    bundled = bundled_datasets()
    if str(name_or_path) in bundled:
        return Dataset.open(bundled[str(name_or_path)], verify)
    path = mirrors.open_root(name_or_path).expanduser()
    mirrors.pull(path)
    if not path.exists():
        raise DatasetError(
            f"There is no dataset '{name_or_path}': neither a folder nor a bundled dataset.",
            cure="Give a dataset's folder (`pkdray data import` makes one) or one of the bundled datasets: "
            f"{', '.join(bundled)}.",
        )
    return Dataset.open(path, verify)


def write_dataset(
    dest: Path,
    info: DatasetInfo,
    samples: pd.DataFrame,
    features: Mapping[str, np.ndarray | MappedArray],
    *,
    level: int = 3,
) -> Dataset:
    """Write a dataset; ``dest`` appears whole or not at all.

    Args:
        dest: the folder to make. One that already holds this very dataset is left as it is and opened.
        info: what the dataset is; its checksums and fingerprint are filled in here.
        samples: one row a sample: sample_id, subject_id, sequence_id, targets, split, optionally frame and fold.
        features: by modality, [N, *shape] in the order of ``samples``; stored as float32, images as uint8.
        level: zstd's compression level of the features.

    Raises:
        DatasetError: ``dest`` holds something else, or the dataset has faults (all are named).
        StorageError: the folder cannot be written.
    """
    dest = Path(dest)
    info = _plain(info)
    faults = Faults()
    validation.check_modalities(info, faults)
    validation.check_samples(info, samples, faults)
    _check_arrays(info, samples, features, faults)
    faults.raise_if_any(f"Dataset '{info.name}'")
    table = _tidy(info, samples)
    with storage_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{dest.name}.tmp-", dir=dest.parent))
        try:
            # mkdtemp's folder is private to its maker; the one inside gets the permissions of any new folder.
            build = temporary / dest.name
            build.mkdir()
            storage.write_samples(build / "samples.parquet", table, info)
            for name, modality in info.modalities.items():
                target, values = build / info.file_name(name), features[name]
                if modality.kind == "images":
                    write_mapped(target, values)
                elif isinstance(values, np.ndarray):
                    storage.write_features(target, table["sample_id"].tolist(), values, level=level)
            info = info.model_copy(update={"checksums": {name: checksum(build / name) for name in info.file_names}})
            info = info.model_copy(update={"fingerprint": info.computed_fingerprint()})
            write_yaml(build / "dataset.yaml", info.to_dict(), _HEADER)
            sync_folder(build)
            if not _holds(dest, info):
                _publish(build, dest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Dataset(dest, info, storage.read_samples(dest / "samples.parquet"))


def check_destination(dest: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        DatasetError: ``dest`` is a file or a folder that is not empty.
    """
    if dest.is_dir() and not any(dest.iterdir()):
        return
    if dest.exists():
        raise DatasetError(
            f"{dest} exists and is not an empty folder.", cure="Choose another folder, or remove this one first."
        )


def _holds(dest: Path, info: DatasetInfo) -> bool:
    """Whether ``dest`` already is the dataset that ``info`` describes; refuse if it is anything else."""
    if not (dest / "dataset.yaml").is_file():
        check_destination(dest)
        return False
    present = Dataset.open(dest)
    if present.fingerprint != info.fingerprint:
        raise DatasetError(
            f"{dest} holds another dataset, '{present.info.name}' with fingerprint {present.fingerprint}; this one, "
            f"'{info.name}', has fingerprint {info.fingerprint}.",
            cure="Choose another folder, or remove this one first.",
        )
    return True


def _publish(build: Path, dest: Path) -> None:
    try:
        build.rename(dest)
    except OSError:
        # Somebody else was faster; renaming onto a folder with files in it never overwrites.
        check_destination(dest)
        raise
    sync_folder(dest.parent)


def _plain(info: DatasetInfo) -> DatasetInfo:
    """``info`` validated anew (a copy may have skipped it), without the checksums of other files."""
    try:
        return DatasetInfo.model_validate({**info.to_dict(), "checksums": {}, "fingerprint": ""})
    except ValidationError as error:
        raise info_error(f"'{info.name}'", error) from error


def _tidy(info: DatasetInfo, samples: pd.DataFrame) -> pd.DataFrame:
    """Validated samples with the columns in their order and in their types."""
    order = [*_COLUMNS[:4], *info.target_columns, *_COLUMNS[4:]]
    table = samples[[column for column in order if column in samples]].reset_index(drop=True)
    for column in ("sample_id", "subject_id", "sequence_id", "split"):
        table[column] = table[column].astype(str)
    return table


def _check_arrays(
    info: DatasetInfo, samples: pd.DataFrame, features: Mapping[str, np.ndarray | MappedArray], faults: Faults
) -> None:
    for name in sorted(set(features) ^ set(info.modalities)):
        where = "an array but no entry in the info" if name in features else "an entry in the info but no array"
        faults.add(f"Modality '{name}' has {where}.", "Give each modality both.")
    for name, modality in info.modalities.items():
        if name not in features:
            continue
        values = features[name]
        if modality.kind == "images":
            validation.check_images(name, values, modality, len(samples), faults)
            continue
        wanted = (len(samples), *modality.shape)
        if isinstance(values, MappedArray) or values.shape != wanted or values.dtype.kind not in "iufb":
            faults.add(
                f"Modality '{name}' is an array {list(values.shape)} of {values.dtype}.",
                f"Give numbers {list(wanted)}.",
            )
        elif "sample_id" in samples:
            # In float32, as stored: a number that is finite in float64 may be beyond it.
            blocks = storage.blocks(samples["sample_id"].to_numpy(dtype=object), values)
            validation.check_features(name, blocks, None, faults)


def _check_checksum(path: Path, name: str, info: DatasetInfo, faults: Faults) -> None:
    recorded, found = info.checksums.get(name), checksum(path / name)
    if recorded == found:
        return
    damage = "" if storage.is_readable(path / name) else " It is truncated or not Parquet."
    faults.add(
        f"{path / name} is not the file that was written: its checksum is {found}, dataset.yaml records "
        f"{recorded}.{damage}",
        f"Restore {some([name])} from a copy, or import again.",
    )
