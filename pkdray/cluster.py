"""Where it runs: a Ray cluster that exists, or a local one that lives as long as the command."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pkdray.errors import RunError
from pkdray.files import remove_folder
from pkdray.interrupts import terminated_like_interrupted
from pkdray.orphans import LOOK_SECONDS, free_orphans
from pkdray.repeating import repeating

logger = logging.getLogger(__name__)
_PREFIX = "pkdray-"


@contextmanager
def connected(address: str | None = None, *, verbose: bool = False) -> Iterator[None]:
    """Be connected to Ray: to ``address``, else to ``RAY_ADDRESS``, else to a local Ray of this process's own.

    A local Ray keeps its files in a folder of its own, which is removed with it; the default folder keeps those of
    every run. A process that is connected already stays as it is. On a cluster, what killed jobs still hold is freed.

    Args:
        address: of a running cluster, as in ``ray.init``.
        verbose: show the logs of Ray and of the workers.

    Raises:
        RunError: no cluster answers at the address.
    """
    # Read when ray is imported or started, so they come before both; what the user has set wins.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(level)
    address = address or os.environ.get("RAY_ADDRESS")
    temporary = None
    if address:
        try:
            ray.init(address=address, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(
                f"No Ray cluster answers at {address} ({str(error).splitlines()[0]}).",
                cure="Check the address, that `ray start` runs there, and RAY_AUTH_MODE=token if it asks for a token.",
            ) from error
    else:
        _remove_leftovers()
        # Short: Ray puts sockets below it, whose paths may have 107 characters.
        temporary = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/tmp")
        ray.init(
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=level,
            configure_logging=verbose,
            _temp_dir=temporary,
        )
    try:
        with ExitStack() as stack:
            stack.enter_context(terminated_like_interrupted())
            if address:
                _free_orphans()
                # Again and again: those of a job that was killed a moment ago come a moment later.
                stack.enter_context(repeating(_free_orphans, LOOK_SECONDS, "pkdray-orphans"))
            yield
    finally:
        ray.shutdown()
        if temporary:
            remove_folder(Path(temporary))


def _free_orphans() -> None:
    from ray.exceptions import RayError

    try:
        free_orphans()
    except (RayError, RuntimeError, OSError, ImportError, AttributeError, LookupError, TypeError, ValueError):
        # A cluster that is going down, which is told by what waits for it; or a Ray whose tables are read otherwise.
        logger.debug("what killed jobs hold could not be looked for", exc_info=True)


def _remove_leftovers() -> None:
    """Remove the folders of local Rays whose driver was killed."""
    for folder in Path("/tmp").glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc").is_dir():
            remove_folder(folder)
