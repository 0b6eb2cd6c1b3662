"""Trials whose results are in a remote run's storage, and whose rows are not in the copy of the ledger that was.

The ledger is copied there every few seconds, a trial's result before it is told. A driver that dies leaves results
that the copy knows nothing of, or whose parameters it lacks: they are proposed again as they were, so that their
results are found, and not trained once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.files import write_json
from pkdray.search.ledger import Ledger
from pkdray.search.trial import RESULT

PROPOSAL = "proposal.json"


def write_proposal(folder: Path, proposal: Mapping[str, Any]) -> None:
    """Keep with a remote trial what the ledger said of it at its start: see `ledger.proposal`.

    Raises:
        StorageError: the storage, or this machine's mirror of it, cannot be written.
    """
    if mirrors.uri_of(folder) is not None:
        write_json(folder / PROPOSAL, dict(proposal))
        # The trial's own workers, who bring its other files there, may be on another node.
        mirrors.push_file(folder / PROPOSAL)


def take_up(run: Path, ledger: Ledger) -> None:
    """Bring the ledger of a run that was left in the middle to where its trials are; the caller holds the run.

    Rows that a kill left running wait again, and results that the ledger knows nothing of are found.

    Raises:
        StorageError: the storage cannot be read, or the ledger not be written.
    """
    ledger.release()
    adopt(run, ledger)


def adopt(run: Path, ledger: Ledger) -> list[int]:
    """Have the trials with a result in the storage proposed as they were; returns their numbers.

    Raises:
        StorageError: the storage cannot be read, or the ledger not be written.
    """
    if mirrors.uri_of(run) is None:
        return []
    finished = {trial.number for trial in ledger.trials() if trial.state.is_finished()}
    trials = run / "trials"
    with_result = {Path(name).parts[0] for name in mirrors.listing(trials) if Path(name).parts[1:] == (RESULT,)}
    adopted = []
    for number in sorted({int(name) for name in with_result if name.isdigit()} - finished):
        kept = mirrors.read(trials / str(number) / PROPOSAL)
        if kept is not None:
            proposal = json.loads(kept)
            # Before it said which trials are retries, it was the parameters alone.
            ledger.expect(number, proposal if "parameters" in proposal else {"parameters": proposal, "retry_of": None})
            adopted.append(number)
    return adopted
