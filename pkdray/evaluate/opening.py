"""The test split is opened once: when that was, and for what, is on record before anything is scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.errors import RunError
from pkdray.files import write_json
from pkdray.search.run import Run

EVALUATION, OPENED = "evaluation.json", "test_opened.json"
_CURES = {
    EVALUATION: "Move it away and evaluate again as before: what is trained is kept, and so is the record of openings.",
    OPENED: "Restore it: without it nobody knows how often the test split was opened.",
}


def read_json(path: Path) -> dict[str, Any] | None:
    """A record of the evaluation; None where there is none.

    Raises:
        RunError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged.", cure=_CURES[path.name]) from error
    return found


def openings(run: Run) -> list[dict[str, Any]]:
    """When the test split was opened (``at``), and for what (``request``), an entry an opening.

    It does not need evaluation.json, which a kill may have prevented or somebody moved away. The oldest pkdray kept the
    openings there alone.

    Raises:
        RunError: a record is damaged.
    """
    kept = read_json(run.path / OPENED)
    if kept is not None:
        return list(kept["openings"])
    older = read_json(run.path / EVALUATION)
    if older is None or "request" in older:
        return []
    opened = older.get("test_opened") or {}
    return [{"at": opened.get("at", "an unknown day"), "request": None} for _ in range(opened.get("times", 1))]


def refuse_second_opening(run: Run, asked: Mapping[str, Any], reopen: bool) -> None:
    """Let only the request that the test split was opened for see it again.

    Raises:
        RunError: it was opened for another one, and ``reopen`` is not given.
    """
    found = openings(run)
    if not found or found[-1]["request"] == asked or reopen:
        return
    before = found[-1]["request"]
    raise RunError(
        f"The test split of {run.name} was opened on {found[-1]['at']} for another request:",
        details=[
            f"then: {_asked(before) if before else 'by an older pkdray, which did not say'}",
            f"now: {_asked(asked)}",
        ],
        cure="A test split that is opened again is no longer unseen. Do it with --reopen if you must; the number of "
        "openings is recorded and shown.",
    )


def _asked(request: Mapping[str, Any]) -> str:
    folds = "" if request["folds"] == [None] else f", {len(request['folds'])} folds"
    against = f", against {', '.join(request['against'])}" if request["against"] else ""
    top = f", the best {request['top']}" if request["top"] > 1 else ""
    several = request.get("trials") or []
    trials = f" (trials {', '.join(map(str, several))})" if len(several) > 1 else ""
    seeds = f"{len(request['seeds'])} seed{'s' * (len(request['seeds']) != 1)}"
    return f"trial {request['trial']} with {seeds}{folds}{top}{against}{trials}"


def keep_earlier(run: Run, before: Mapping[str, Any]) -> Path:
    """Keep an evaluation that another takes the place of, under the number of its opening."""
    path = run.path / f"evaluation.{(before.get('test_opened') or {}).get('times', 1)}.json"
    write_json(path, before)
    return path


def record_opening(run: Run, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Record an opening, and say when it was and how many there were; going on with the same request is none."""
    found = openings(run)
    if not found or found[-1]["request"] != asked:
        found.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), "request": dict(asked)})
        write_json(run.path / OPENED, {"openings": found})
        mirrors.push_file(run.path / OPENED)
    return {"at": found[-1]["at"], "times": len(found)}
