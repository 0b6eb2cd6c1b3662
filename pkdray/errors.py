"""The few exceptions a user sees: what went wrong, the value received, and the cure."""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130
"""The shell's exit code for a process ended by Ctrl-C (128 + SIGINT)."""


class PkdrayError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback and exits with 2.

    Args:
        what: one sentence that says what is wrong and names the value received.
        cure: one sentence that says what to do about it.
        details: further lines, one fault each, when there is more than one.

    Example:
        >>> print(PkdrayError("theta is 3.0, outside [0, 2].", cure="Choose a theta in [0, 2]."))
        theta is 3.0, outside [0, 2].
        Choose a theta in [0, 2].
    """

    def __init__(self, what: str, *, cure: str | None = None, details: Sequence[str] = ()) -> None:
        self.what = what
        self.cure = cure
        self.details = tuple(details)
        super().__init__(what, cure, self.details)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross Ray's process borders by pickle, which would otherwise lose the keyword arguments.
        return (_rebuild, (type(self), self.what, self.cure, self.details))

    def __str__(self) -> str:
        lines = [self.what, *(f"  - {detail}" for detail in self.details)]
        if self.cure:
            lines.append(self.cure)
        return "\n".join(lines)


def _rebuild(kind: type[PkdrayError], what: str, cure: str | None, details: Sequence[str]) -> PkdrayError:
    return kind(what, cure=cure, details=details)


class ConfigError(PkdrayError):
    """A YAML file or a ``--set`` says something that pkdray cannot mean; every fault is in ``details``."""


class DatasetError(PkdrayError):
    """A dataset, or a table to be imported into one, is missing, malformed or misaligned."""


class FingerprintError(PkdrayError):
    """A result was made from something else than what it is now asked to go with."""


class CheckpointError(PkdrayError):
    """A file of weights or of training state is missing, truncated or was altered."""


class RunError(PkdrayError):
    """A run does not exist, is not in the state that the step needs, or is in use by another process."""


class JobError(PkdrayError):
    """A job cannot be submitted, found or followed: no cluster answers, it asks for a token, or the job is unknown."""


class StorageError(PkdrayError):
    """A folder cannot be written: no permission, no space left, a read-only file system."""


class DivergedError(PkdrayError):
    """Training produced a loss that is not a finite number."""


class InterruptedWorkError(PkdrayError):
    """Ctrl-C stopped a step that the same or another command continues; the exit code is 130."""


class InterruptedSweepError(InterruptedWorkError):
    """Ctrl-C stopped a sweep with trials still open."""


class InterruptedImportError(InterruptedWorkError):
    """Ctrl-C stopped an import with samples still to make."""
