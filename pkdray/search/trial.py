"""One trial: train the proposed student, write its folder, then say that it is finished."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch

from pkdray import mirrors
from pkdray.embeddings import Arrays
from pkdray.files import write_atomic, write_json, write_yaml
from pkdray.training.checkpoints import save_tensors, trained_state
from pkdray.training.folders import fetch_folder
from pkdray.training.loop import LAST, Fitted
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan
from pkdray.training.students import student_identity, train_student

BEST, CURVES, RESULT, CONFIG = "best.safetensors", "curves.parquet", "result.json", "config.yaml"

TrialReport: TypeAlias = Callable[[dict[str, Any]], None]
"""Called with an epoch's metrics, and with the ``node`` and ``device`` that it ran on."""


def run_trial(
    plan: Plan,
    overrides: Mapping[str, Any],
    arrays: Mapping[str, Arrays],
    folder: Path,
    *,
    tnets: Path | None = None,
    frozen: Path | None = None,
    report: TrialReport | None = None,
    device: str = "cpu",
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Train one proposal to its end; returns its summary, which ``result.json`` holds too.

    A trial whose result is in its folder already is not trained again: its process was killed between finishing and
    being told so. One with training state in its folder is continued.

    Args:
        plan: the study.
        overrides: dotted path -> proposed value.
        arrays: ``train`` and ``val``, with the teachers' embeddings.
        folder: the trial's own, named by its number.
        tnets: where frozen T-Nets are shared.
        frozen: where the steps of frozen backbones are kept.
        report: called with every epoch's metrics but the last's: a trial that reached its end cannot be stopped early.
        device: torch's name of the device.
        workers: this process's place among data-parallel workers, each of whom calls this; the first writes.

    Returns:
        ``value`` (the study's metric at the best epoch), ``metrics``, ``epoch`` (the best), ``epochs`` (trained),
        ``seconds`` (of this process), ``method``, ``teachers`` (share of rows taught by each), ``node`` (host name),
        ``device`` (cpu, or the GPU's name).

    Raises:
        ConfigError: the proposal is outside a domain.
        DivergedError: the loss is no longer finite.
    """
    started = time.monotonic()
    config = plan.trial_config(dict(overrides))
    identity = student_identity(plan, config, config.seed)
    workers = workers or Workers()
    fetch_folder(folder, workers)
    found = workers.agree(_result(folder, identity))
    if found is not None:
        if workers.rank == 0:
            # It may have been killed before its files had left the machine.
            mirrors.push(folder, gone=True)
        return dict(found)
    if workers.rank == 0:
        write_yaml(folder / CONFIG, config.model_dump(mode="json", by_alias=True))

    place = {"node": platform.node(), "device": device_name(device)}

    def forward_report(entry: dict[str, float]) -> None:
        if report and not entry["finished"]:
            report({**entry, **place})

    fitted = train_student(
        plan,
        config,
        arrays,
        seed=config.seed,
        folder=folder,
        tnets=tnets,
        frozen=frozen,
        report=forward_report,
        device=device,
        workers=workers,
    )
    curves = pd.DataFrame(fitted.history)
    shares = {
        key.removeprefix("train/teacher/"): round(float(curves[key].mean()), 4)
        for key in curves.columns
        if key.startswith("train/teacher/")
    }
    summary = {
        "value": fitted.best[plan.metric.name],
        "metrics": {
            key: value
            for key, value in fitted.best.items()
            if not key.startswith("train/") and key not in ("epoch", "best")
        },
        "epoch": int(fitted.best["epoch"]),
        "epochs": fitted.epochs,
        "seconds": round(time.monotonic() - started, 3),
        "method": config.method.name,
        "teachers": shares,
        **place,
    }
    if workers.rank == 0:
        _write(folder, fitted, curves, identity, summary)
    return summary


def device_name(device: str) -> str:
    """``cpu``, or what the maker calls the GPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _write(folder: Path, fitted: Fitted, curves: pd.DataFrame, identity: str, summary: dict[str, Any]) -> None:
    write_atomic(folder / CURVES, lambda temporary: curves.to_parquet(temporary, index=False))
    save_tensors(folder / BEST, trained_state(fitted.model), {"identity": identity, "best": fitted.best})
    # Last: whoever finds it finds the rest.
    write_json(folder / RESULT, {"identity": identity, **summary})
    # The training state has served its purpose, and a thousand trials would keep a thousand of them.
    (folder / LAST).unlink(missing_ok=True)
    mirrors.push(folder, gone=True)


def _result(folder: Path, identity: str) -> dict[str, Any] | None:
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return result if result.pop("identity", None) == identity else None
