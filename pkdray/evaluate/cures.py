"""What to type for more complete trials, which evaluation, export and report need alike."""

from __future__ import annotations

from pkdray import mirrors
from pkdray.search.ledger import Counts
from pkdray.search.run import Run


def until_complete(run: Run, counts: Counts | None = None) -> str:
    """The command after which a run may have more complete trials: a plain resume runs what is open alone.

    Args:
        run: the run.
        counts: how its trials stand, if that is known already.
    """
    counts, command = counts or run.ledger().counts(), f"pkdray resume {mirrors.typed(run.path)}"
    if counts.open or counts.running:
        return command
    return f"{command} --retry-failed" if counts.failed else f"{command} --trials {2 * counts.planned}"
