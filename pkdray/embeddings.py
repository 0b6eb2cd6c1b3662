"""The frozen teachers' embeddings: on disk, in the object store once a node, handed out as gathered copies.

A frozen teacher never runs inside a student's step: what it says of every sample is computed once (`training.embed`),
kept as Parquet beside the teacher, put into Ray's object store once a sweep, and read there without a copy by every
trial of a node.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pkdray.data.mapped import MappedArray
from pkdray.errors import CheckpointError, StorageError
from pkdray.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray | MappedArray]
Restore = Callable[[], Mapping[str, Arrays]]
"""Reads from disk again what was put, in any process of any node."""

CHUNK_BYTES = 64 << 20
"""What one chunk of rows may hold where all of them are gone through once; images fill it with a few samples."""


@dataclass(frozen=True)
class TeacherEmbeddings:
    """What one frozen teacher says of N samples; float32 throughout.

    * ``embedding`` [N, D] or [N, T, D], ``prediction`` [N, C] (logits or targets) or [N, T, C]
    * ``loss`` [N] or [N, T]: the teacher's task loss of the sample; NaN on the test split, whose labels stay closed,
      and on frames without a label
    * ``gamma`` [N] or [N, T]: the negative-transfer measure of the sample's sequence, see `losses.gate`; NaN on test
    * ``privileged`` [N, P] or [N, T, P]: features of the modalities that the student lacks; P may be 0
    """

    embedding: np.ndarray
    prediction: np.ndarray
    loss: np.ndarray
    gamma: np.ndarray
    privileged: np.ndarray

    def __len__(self) -> int:
        return len(self.embedding)

    def take(self, rows: np.ndarray) -> TeacherEmbeddings:
        """The embeddings of some samples, in the order of ``rows``."""
        return TeacherEmbeddings(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def write_embeddings(path: Path, sample_ids: Iterable[str], embeddings: TeacherEmbeddings) -> None:
    """Write one teacher's embeddings as Parquet: sample_id, then one fixed-size list of float32 a field.

    The shape of a sample (without N) stands in the column's metadata, because Parquet lists are flat.
    """
    columns: list[pa.Array] = [pa.array([str(sample_id) for sample_id in sample_ids], pa.string())]
    schema = [pa.field("sample_id", pa.string())]
    for field in fields(embeddings):
        values = np.ascontiguousarray(getattr(embeddings, field.name), dtype=np.float32)
        shape = values.shape[1:]
        flat = pa.array(values.reshape(-1), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))) if np.prod(shape) else None
        # Parquet cannot hold a list of length 0: a teacher without privileged features leaves the column out.
        if column is not None:
            columns.append(column)
            schema.append(pa.field(field.name, column.type, metadata={"shape": ",".join(map(str, shape))}))
    table = pa.table(columns, schema=pa.schema(schema))
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_embeddings(path: Path) -> tuple[list[str], TeacherEmbeddings]:
    """Read what `write_embeddings` wrote: the sample ids and the embeddings in the same order.

    Raises:
        CheckpointError: the file is missing, truncated or is something else.
    """
    try:
        table = pq.read_table(path)
        arrays: dict[str, np.ndarray] = {}
        for field in fields(TeacherEmbeddings):
            if field.name == "privileged" and field.name not in table.column_names:
                arrays[field.name] = np.empty((*arrays["embedding"].shape[:-1], 0), np.float32)
                continue
            shape = [int(n) for n in (table.schema.field(field.name).metadata[b"shape"].decode().split(",")) if n]
            flat = table[field.name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            arrays[field.name] = flat.reshape(-1, *shape)
        return table["sample_id"].to_pylist(), TeacherEmbeddings(**arrays)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no embeddings ({type(error).__name__}: {error}).",
            cure="Delete the file and run `pkdray embed` on its pool again.",
        ) from error


class Rows:
    """Read-only arrays of equal length by name, of which only gathered copies are handed out.

    ``torch.from_numpy`` of an object-store array can be written in place and would then silently change it for every
    trial on the node, so the mapped tensors never leave this class. What lies on disk (`MappedArray`) is read when it
    is gathered.

    Example:
        >>> import numpy as np, torch
        >>> rows = Rows({"target": np.array([3, 1, 4], dtype=np.int64)})
        >>> rows.take(torch.tensor([2, 0]))["target"].tolist()
        [4, 3]
    """

    def __init__(self, arrays: Arrays, device: str = "cpu") -> None:
        import torch

        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays of different lengths: {lengths}")
        self._length = next(iter(lengths.values()))
        self._bytes = sum(array.nbytes for array in arrays.values()) // max(1, self._length)
        self._on_disk = {name: array for name, array in arrays.items() if isinstance(array, MappedArray)}
        with warnings.catch_warnings():
            # The warning says that the array must not be written, which is what this class sees to.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._tensors = {
                name: torch.from_numpy(array).to(device)
                for name, array in arrays.items()
                if isinstance(array, np.ndarray)
            }
        self.device = device

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._on_disk

    @property
    def names(self) -> list[str]:
        """The names of all arrays."""
        return [*self._tensors, *self._on_disk]

    @property
    def on_disk(self) -> dict[str, MappedArray]:
        """The arrays that are read when they are gathered, and by other processes as well."""
        return dict(self._on_disk)

    def take(self, indices: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The rows at ``indices`` [B] of every array (or of the named ones), as fresh tensors: {name: [B, ...]}."""
        import torch

        taken = {}
        for name in self.names if names is None else names:
            if name in self._tensors:
                taken[name] = self._tensors[name].index_select(0, indices)
            else:
                taken[name] = torch.from_numpy(self._on_disk[name].gather(indices.cpu().numpy())).to(self.device)
        return taken

    def column(self, name: str) -> Tensor:
        """One array whole, as a fresh tensor [N, ...]."""
        return self._tensors[name].clone()

    def chunks(self, most: int) -> Iterator[Tensor]:
        """Indices of all rows in order, at most ``most`` and some 64 MB at a time."""
        import torch

        size = max(1, min(most, CHUNK_BYTES // max(1, self._bytes)))
        yield from torch.arange(self._length, device=self.device).split(size)


class SharedArrays:
    """Arrays by split and name, held in Ray's object store: put once by the driver, mapped by every process of a node.

    The references belong to the driver that made them and live as long as it; Parquet on disk remains the truth, and
    is read again where an array is lost.
    """

    def __init__(
        self,
        references: dict[str, dict[str, Any]],
        digests: dict[str, dict[str, str]],
        restore: Restore | None = None,
    ) -> None:
        self._references = references
        self._digests = digests
        self._restore = restore
        self._key = uuid.uuid4().hex

    @classmethod
    def put(cls, splits: Mapping[str, Arrays], restore: Restore | None = None) -> SharedArrays:
        """Put every array once; numpy arrays are stored without pickling and read back without copying.

        Of an array on disk its path is put, and every process maps the file.

        Args:
            splits: the arrays by split and name.
            restore: reads the same arrays from disk, where the object store has lost one.
        """
        import ray

        references = {
            split: {name: ray.put(_contiguous(array)) for name, array in arrays.items()}
            for split, arrays in splits.items()
        }
        digests = {split: {name: _digest(array) for name, array in arrays.items()} for split, arrays in splits.items()}
        return cls(references, digests, restore)

    def get(self) -> dict[str, dict[str, np.ndarray | MappedArray]]:
        """Map every array into this process: read-only views, no copy. Lost ones are read from disk, once a process.

        Raises:
            StorageError: what is on disk is no longer what was put.
        """
        import ray

        if self._key in _RESTORED:
            return _RESTORED[self._key]
        try:
            return {
                split: dict(zip(references, ray.get(list(references.values())), strict=True))
                for split, references in self._references.items()
            }
        except ray.exceptions.ObjectLostError as error:
            if self._restore is None:
                raise
            logger.warning("Shared arrays are lost (%s): they are read from disk again.", type(error).__name__)
            restored = self._read_again(self._restore)
            # One set is kept: a process that goes on to another fold has no use for the last one's.
            _RESTORED.clear()
            _RESTORED[self._key] = restored
            return restored

    def _read_again(self, restore: Restore) -> dict[str, dict[str, np.ndarray | MappedArray]]:
        restored = {
            split: {name: _contiguous(array) for name, array in arrays.items()} for split, arrays in restore().items()
        }
        self._check(restored, "The files on disk are no longer what the shared arrays were read from", "Resume the run")
        for arrays in restored.values():
            for array in arrays.values():
                if isinstance(array, np.ndarray):
                    array.flags.writeable = False
        return restored

    def nbytes(self) -> int:
        """Bytes held in the object store of each node that uses them."""
        held = (array for arrays in self.get().values() for array in arrays.values())
        return sum(array.nbytes for array in held if isinstance(array, np.ndarray))

    def verify(self) -> None:
        """Check at the end of a sweep that nobody wrote into the shared arrays.

        Raises:
            StorageError: an array is no longer what was put.
        """
        self._check(
            self.get(),
            "Shared arrays were altered during the sweep",
            "The trials of this run cannot be trusted: start it anew and report this as a bug",
        )

    def _check(self, held: Mapping[str, Arrays], what: str, cure: str) -> None:
        changed = [
            f"{split}/{name}"
            for split, digests in self._digests.items()
            for name, digest in digests.items()
            if _digest(held[split][name]) != digest
        ]
        if changed:
            raise StorageError(f"{what}: {', '.join(changed)}.", cure=f"{cure}.")


_RESTORED: dict[str, dict[str, dict[str, np.ndarray | MappedArray]]] = {}
"""What this process had to read from disk, by the key of its `SharedArrays`."""


def _contiguous(array: np.ndarray | MappedArray) -> np.ndarray | MappedArray:
    return array if isinstance(array, MappedArray) else np.ascontiguousarray(array)


def _digest(array: np.ndarray | MappedArray) -> str:
    # A file's rows are told by their numbers: it is mapped for reading only, and its checksum is the dataset's affair.
    values = array.rows if isinstance(array, MappedArray) else array
    return hashlib.blake2b(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data, digest_size=16).hexdigest()
