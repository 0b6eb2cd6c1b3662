"""Commands that a message, a card or a page advises, as a person would type them."""

from __future__ import annotations

import shlex
from pathlib import Path

from pkdray import mirrors
from pkdray.search.run import Run


def typed(path: Path) -> str:
    """A path for a command line: its URI where it is a mirror of one; quoted.

    Example:
        >>> typed(Path("runs/my run"))
        "'runs/my run'"
    """
    return shlex.quote(mirrors.shown(path))


def until_complete(run: Run) -> str:
    """The command after which a run may have more complete trials: a plain resume runs what is open alone."""
    counts, command = run.ledger().counts(), f"pkdray resume {typed(run.path)}"
    if counts.open or counts.running:
        return command
    return f"{command} --retry-failed" if counts.failed else f"{command} --trials {2 * counts.planned}"
