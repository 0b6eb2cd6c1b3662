"""Several faults of one dataset gathered, so that a user mends a table once and not once for every mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pkdray.errors import DatasetError

_SHOWN = 5


def some(ids: Iterable[object]) -> str:
    """The first five of ``ids``, quoted, and an ellipsis where there are more.

    Example:
        >>> some(["a", "b"])
        "'a', 'b'"
        >>> some(range(7))
        "'0', '1', '2', '3', '4', ..."
    """
    shown = []
    for count, name in enumerate(ids):
        if count == _SHOWN:
            shown.append("...")
            break
        shown.append(f"'{name}'")
    return ", ".join(shown)


class Faults:
    """Collects faults; ``raise_if_any`` raises one as it is and several as one error with a line each.

    Example:
        >>> faults = Faults()
        >>> faults.add("labels.csv is empty.", "Add a row per sample.")
        >>> faults.raise_if_any("The import")
        Traceback (most recent call last):
        pkdray.errors.DatasetError: labels.csv is empty.
        Add a row per sample.
    """

    def __init__(self) -> None:
        self._found: list[DatasetError] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def count(self) -> int:
        """How many were noted so far."""
        return len(self._found)

    def add(self, what: str, cure: str) -> None:
        """Note one fault and its cure."""
        self._found.append(DatasetError(what, cure=cure))

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Note a ``DatasetError`` raised inside the block instead of letting it through."""
        try:
            yield
        except DatasetError as error:
            self._found.append(error)

    def raise_if_any(self, where: str) -> None:
        """Raise what was gathered.

        Args:
            where: what has the faults, as the subject of a sentence.

        Raises:
            DatasetError: at least one fault was noted; several become the lines of ``details``.
        """
        if not self._found:
            return
        if len(self._found) == 1:
            raise self._found[0]
        lines: list[str] = []
        for error in self._found:
            if error.details:
                lines.extend(error.details)
            else:
                lines.append(f"{error.what} {error.cure}" if error.cure else error.what)
        raise DatasetError(f"{where} has {len(lines)} faults:", details=lines, cure="Mend them all, then try again.")
