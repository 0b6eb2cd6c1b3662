"""One training of one configuration: with one seed, on one fold; kept in a folder, so that none is done twice."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.embeddings import Arrays
from pkdray.errors import DivergedError
from pkdray.files import write_json
from pkdray.search.trial import BEST
from pkdray.training.checkpoints import load_tensors, load_trained, save_tensors, trained_state
from pkdray.training.folders import fetch_folder
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import student_rows
from pkdray.training.loop import LAST
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan
from pkdray.training.students import fresh_student, scores, student_identity, train_student

TRAINED, TESTED = "trained.json", "tested.json"


def train_one(
    plan: Plan,
    overrides: Mapping[str, Any],
    arrays: Mapping[str, Arrays],
    seed: int,
    folder: Path,
    *,
    tnets: Path | None = None,
    frozen: Path | None = None,
    device: str = "cpu",
    workers: Workers | None = None,
    weights: bool = True,
) -> dict[str, Any]:
    """Train one configuration with one seed; the epoch is chosen on validation. The test split is not looked at.

    A training that is in its folder already is not done again, one that was interrupted is continued.

    Args:
        plan: of the fold.
        overrides: dotted path -> value, as a trial's.
        arrays: ``train`` and ``val``, with the teachers' embeddings.
        seed: of the training.
        folder: the training's own.
        tnets: where frozen T-Nets are shared.
        frozen: where the steps of frozen backbones are kept.
        device: torch's name of the device.
        workers: this process's place among data-parallel workers, each of whom calls this; the first writes.
        weights: whether a training whose weights are gone is done again: they are needed until it is scored.

    Returns:
        ``validation`` (metrics), ``epoch`` (the best), ``epochs``, ``seconds``, ``node``, ``device``; or ``failed``,
        why there is no student: the loss diverged.

    Raises:
        StorageError: the folder cannot be written.
    """
    started = time.monotonic()
    workers = workers or Workers()
    config = plan.trial_config(dict(overrides))
    identity = student_identity(plan, config, seed)
    fetch_folder(folder, workers)
    found = workers.agree(_known(folder, identity, weights=weights))
    if found is not None:
        if workers.rank == 0:
            mirrors.push(folder, gone=True)
        return dict(found)
    about: dict[str, Any] = {"identity": identity, "node": platform.node(), "device": device}
    try:
        fitted = train_student(
            plan,
            config,
            arrays,
            seed=seed,
            folder=folder,
            tnets=tnets,
            frozen=frozen,
            device=device,
            workers=workers,
        )
    except DivergedError as error:
        about |= {"failed": error.what}
    else:
        validation = {
            name: value
            for name, value in fitted.best.items()
            if not name.startswith("train/") and name not in ("epoch", "best")
        }
        about |= {"validation": validation, "epoch": int(fitted.best["epoch"]), "epochs": fitted.epochs}
        if workers.rank == 0:
            save_tensors(folder / BEST, trained_state(fitted.model), {"identity": identity})
    about["seconds"] = round(time.monotonic() - started, 3)
    if workers.rank == 0:
        # Last: whoever finds it finds the weights.
        write_json(folder / TRAINED, about)
        (folder / LAST).unlink(missing_ok=True)
        mirrors.push(folder, gone=True)
    return about


def score_one(
    plan: Plan,
    overrides: Mapping[str, Any],
    arrays: Mapping[str, Arrays],
    seed: int,
    folder: Path,
    *,
    frozen: Path | None = None,
    device: str = "cpu",
) -> dict[str, float | None]:
    """Score a student that `train_one` left on the test split, and remove its weights, which nobody needs any more.

    Args:
        plan: of the fold.
        overrides: as they were trained.
        arrays: ``test``.
        seed: as it was trained.
        folder: the training's own.
        frozen: where the steps of frozen backbones are kept.
        device: torch's name of the device.

    Raises:
        CheckpointError: its weights are missing or damaged.
    """
    config = plan.trial_config(dict(overrides))
    identity = student_identity(plan, config, seed)
    fetch_folder(folder)
    found = _read(folder / TESTED, identity)
    if found is not None:
        return dict(found["test"])
    student = fresh_student(plan, config)
    tensors, _ = load_tensors(folder / BEST)
    load_trained(student, tensors, folder / BEST)
    arrays = with_steps(plan, config.student, arrays, frozen, device)
    rows = student_rows(arrays["test"], plan.prevalent, [], privileged=False, device=device)
    said = finite(scores(student.to(device).eval(), rows, plan))
    write_json(folder / TESTED, {"identity": identity, "test": said})
    (folder / BEST).unlink(missing_ok=True)
    mirrors.push(folder, gone=True)
    return said


def finite(said: Mapping[str, float]) -> dict[str, float | None]:
    """Scores, None where there is none: a prediction was not finite, or no label is known. JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in said.items()}


def _known(folder: Path, identity: str, *, weights: bool) -> dict[str, Any] | None:
    """What a finished training left; None where it has no weights any more and they are asked for."""
    found = _read(folder / TRAINED, identity)
    if found is None or "failed" in found or not weights:
        return found
    return found if (folder / BEST).exists() or _read(folder / TESTED, identity) is not None else None


def _read(path: Path, identity: str) -> dict[str, Any] | None:
    """A result of this very training; a damaged one is worth no interruption, and is made again."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if found.get("identity") == identity else None
