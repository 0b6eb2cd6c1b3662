"""Arrays that stay on disk: rows are read where they are gathered, and what travels between processes is a path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pkdray import mirrors
from pkdray.errors import DatasetError
from pkdray.files import write_atomic

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class MappedArray:
    """Rows of a .npy file ``[M, ...]``, for what does not fit into memory: frames of faces.

    It pickles as its path and its rows, so that a worker maps the file for itself; all processes of a node share the
    system's page cache. Make one with ``MappedArray.open``.

    Args:
        path: the file.
        rows: int64 ``[N]``, which of the file's rows these are.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "faces.npy"
        >>> write_mapped(path, np.arange(10, dtype=np.uint8).reshape(5, 2))
        >>> faces = MappedArray.open(path)[np.array([4, 0, 2])]
        >>> faces.shape, faces[np.array([0])].gather().tolist()
        ((3, 2), [[8, 9]])
    """

    path: Path
    rows: np.ndarray
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path) -> MappedArray:
        """All rows of a file.

        Raises:
            DatasetError: the file is missing, truncated or no .npy file.
        """
        # Absolute: who gets it by its path may run in another folder.
        return cls(path.absolute(), np.arange(len(_mapped(path)), dtype=np.int64))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.path, self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, ...)``."""
        return (len(self.rows), *self._file.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The numbers' type."""
        return self._file.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of these rows on disk."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def _file(self) -> np.ndarray:
        if "file" not in self._cache:
            self._cache["file"] = _mapped(self.path)
        return self._cache["file"]

    def __getitem__(self, which: np.ndarray | slice) -> MappedArray:
        """Some of the rows, still on disk."""
        return MappedArray(self.path, self.rows[which], self._cache)

    def gather(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Read some rows into a new array."""
        # In ascending order, because a spinning disk or a network's file system reads ahead.
        rows = self.rows[which]
        order = np.argsort(rows, kind="stable")
        values = np.empty((len(rows), *self._file.shape[1:]), self.dtype)
        values[order] = self._file[rows[order]]
        return values

    def blocks(self) -> Iterator[np.ndarray]:
        """Read all rows, some 32 MB at a time."""
        size = max(1, _BLOCK_BYTES // max(1, self.nbytes // max(1, len(self))))
        for start in range(0, len(self), size):
            yield self.gather(slice(start, start + size))


def write_mapped(path: Path, values: np.ndarray | MappedArray) -> None:
    """Write an array ``[N, ...]`` for :class:`MappedArray`, block by block.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_blocks(path, len(values), values.blocks() if isinstance(values, MappedArray) else [values])


def write_blocks(path: Path, count: int, blocks: Iterable[np.ndarray]) -> None:
    """Write ``count`` rows for :class:`MappedArray` as they come, in blocks ``[n, ...]`` held one at a time.

    Raises:
        StorageError: the folder cannot be written.
        ValueError: there are more rows or fewer, or of another type or shape.
    """

    def write(temporary: Path) -> None:
        start, kind = 0, None
        # Written and not mapped: where the device is full a mapping would end the process, and a write says so.
        with temporary.open("wb") as out:
            for block in blocks:
                if kind is None:
                    kind = (block.dtype, block.shape[1:])
                    header = {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False}
                    np.lib.format.write_array_header_1_0(out, {**header, "shape": (count, *block.shape[1:])})
                if kind != (block.dtype, block.shape[1:]):
                    raise ValueError(f"a block of {block.dtype} {list(block.shape[1:])} came for {path} after {kind}")
                out.write(np.ascontiguousarray(block).data)
                start += len(block)
        if start != count:
            raise ValueError(f"{start} rows came for {path}, not {count}")

    write_atomic(path, write)


def _mapped(path: Path) -> np.ndarray:
    try:
        mirrors.have(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing.", cure="Restore it from a copy, or import again.") from error
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read as .npy; it is truncated or damaged ({error}).",
            cure="Restore it from a copy, or import again.",
        ) from error
