"""A training's folder where its workers share no disk: the same for all of them, and kept on the run's storage."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from pkdray import mirrors
from pkdray.errors import StorageError
from pkdray.training.parallel import Workers

CHECKPOINT_SECONDS = 30.0
"""How often a checkpoint goes to remote storage at most: so much of a training may be lost with its node."""

_LOG = logging.getLogger(__name__)


def fetch_folder(folder: Path | None, workers: Workers | None = None) -> None:
    """Bring a training's folder from its storage, such that all of its workers find what the first one does.

    Every worker calls it. A plain folder stays as it is.

    Raises:
        StorageError: the storage cannot be read, or the mirror cannot be written.
    """
    if folder is None or mirrors.uri_of(folder) is None:
        return
    if workers is None or workers.size == 1:
        mirrors.pull(folder)
        return
    if workers.rank == 0:
        mirrors.pull(folder)
        mirrors.push(folder)
    torch.distributed.barrier()
    if workers.rank > 0:
        # Its machine may hold a checkpoint of its own, of a time when it had the first worker.
        mirrors.pull(folder, exact=True)
    # Nobody writes into the folder while another worker on the same machine still compares it.
    torch.distributed.barrier()


class Checkpoints:
    """Brings a training's checkpoint to its storage now and then."""

    def __init__(self) -> None:
        self._seldom = mirrors.Seldom(CHECKPOINT_SECONDS)

    def saved(self, path: Path) -> None:
        """A checkpoint was written. Where it cannot be brought away, the training goes on: a later one may be."""
        if mirrors.uri_of(path) is not None:
            self._seldom(lambda: _push(path))


def _push(path: Path) -> None:
    try:
        mirrors.push_file(path)
    except StorageError as error:
        _LOG.warning("A checkpoint stays on its node for now: %s", error)
