"""What a teacher and a student cost for one sample, beside what they are worth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pkdray.config import Config
from pkdray.diagnostics.trials import complete_trial
from pkdray.errors import RunError
from pkdray.evaluate import evaluation_of
from pkdray.evaluate.candidates import BARE
from pkdray.models.backbones import align_frames
from pkdray.models.cost import Cost, cost
from pkdray.models.weights import no_pretrained_weights
from pkdray.profile import profile, student_cost
from pkdray.search.run import Run
from pkdray.training.bundles import Architecture
from pkdray.training.plan import Member, Plan
from pkdray.training.students import fresh_student
from pkdray.training.teachers import build_adapters, build_teacher

_SECONDS = 0.2
"""How long each network is timed at least."""


@dataclass(frozen=True)
class _Measured:
    parameters: int
    macs: int
    latency_ms: float


def costs(run: Run, plan: Plan, numbers: Sequence[int]) -> pd.DataFrame:
    """Parameters, multiply-accumulates and latency of the teachers, of trials' students and of the lower bound.

    Trials whose students are the same network are measured once. Weights do not matter to any of it, so no file is
    read but the ledger, the pool's metrics and the evaluation.

    Args:
        run: the run.
        plan: its plan.
        numbers: of complete trials.

    Returns:
        ``who`` ("teacher NAME", "trial N", "lower bound"), ``trial`` (None for the others), ``parameters``, ``macs``
        (of one sample), ``latency_ms`` (median of one sample on this machine's CPU, in one thread), ``value`` (the
        study's metric on validation; the lower bound's is the mean of its trainings, NaN before `evaluate`).

    Raises:
        RunError: a trial did not run to its end.
        CheckpointError: the pool is unfinished or damaged.
    """
    metric = plan.metric.name
    said = run.pool(plan).read()["teachers"]
    rows: list[dict[str, Any]] = []
    counted = {one.name: one.total for one in profile(plan).teachers}
    for name, member in plan.pool.items():
        measured = _Measured(counted[name].parameters, counted[name].macs, _latency(_teacher(plan, member)))
        rows.append(_row(f"teacher {name}", None, measured, said[name]["validation"].get(metric, float("nan"))))
    known: dict[str, _Measured] = {}
    for number in numbers:
        config, summary = complete_trial(run, plan, number)
        rows.append(_row(f"trial {number}", number, _student(plan, config, known), summary["value"]))
    overrides, value = _lower_bound(run)
    rows.append(_row("lower bound", None, _student(plan, plan.trial_config(overrides), known), value))
    table = pd.DataFrame(rows)
    return table.astype({"trial": "Int64"})


def student_latency(plan: Plan, config: Config) -> float:
    """Median milliseconds of one sample through a student, on this machine's CPU, in one thread."""
    with no_pretrained_weights():
        student = fresh_student(plan, config).eval()
    inputs = _sample(plan, plan.prevalent)
    return _latency(lambda: student(inputs))


def architecture_cost(architecture: Architecture) -> Cost:
    """What a student's network costs for one sample, from its folder's config.yaml alone."""
    with torch.device("meta"), torch.no_grad(), no_pretrained_weights():
        return cost(architecture.build(), _zeros(architecture))


def architecture_latency(architecture: Architecture) -> float:
    """Median milliseconds of one sample through a student's network, on this machine's CPU, in one thread."""
    with no_pretrained_weights():
        student = architecture.build().eval()
    inputs = _zeros(architecture)
    return _latency(lambda: student(inputs))


def _zeros(architecture: Architecture) -> dict[str, Tensor]:
    # Of three axes and more, images alone have three channels (`data.info.Modality`).
    return {
        name: torch.zeros(1, *shape, dtype=torch.uint8 if len(shape) > 2 and shape[-1] == 3 else torch.float32)
        for name, shape in architecture.shapes.items()
    }


def _row(who: str, trial: int | None, measured: _Measured, value: float) -> dict[str, Any]:
    return {"who": who, "trial": trial, **vars(measured), "value": value}


def _student(plan: Plan, config: Config, known: dict[str, _Measured]) -> _Measured:
    section = config.student.model_dump_json()
    if section not in known:
        total = student_cost(plan, config).total
        known[section] = _Measured(total.parameters, total.macs, student_latency(plan, config))
    return known[section]


def _teacher(plan: Plan, member: Member) -> Callable[[], object]:
    """One sample through a member of the pool: an adapter runs behind the encoder that it recycles."""
    with no_pretrained_weights():
        if member.adapter_of is None:
            teacher = build_teacher(plan, member).eval()
            inputs = _sample(plan, member.modalities)
            return lambda: teacher(inputs)
        first = plan.pool[member.adapter_of]
        encoders = build_teacher(plan, first).eval().encoders
        adapter = build_adapters(plan).eval().adapters[member.name]
    samples = _sample(plan, first.modalities)
    encoder, sample = encoders[member.name], samples[member.name]
    with torch.inference_mode():
        others = {name: encoders[name](samples[name]) for name in first.modalities if name != member.name}

    def forward() -> object:
        # Among the others, a vector is repeated over their frames, as it was when the adapter learnt.
        return adapter(align_frames({**others, member.name: encoder(sample)})[member.name])

    return forward


def _sample(plan: Plan, modalities: Sequence[str]) -> dict[str, Tensor]:
    result = {}
    for name in modalities:
        modality = plan.info.modalities[name]
        dtype = torch.uint8 if modality.kind == "images" else torch.float32
        result[name] = torch.zeros(1, *modality.shape, dtype=dtype)
    return result


def _latency(forward: Callable[[], object]) -> float:
    # It imports what builds extensions, which warns where there are CUDA's tools and no GPU: no matter here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    with torch.inference_mode():
        timer = Timer("forward()", globals={"forward": forward}, num_threads=1)
        return float(timer.blocked_autorange(min_run_time=_SECONDS).median) * 1000


def _lower_bound(run: Run) -> tuple[dict[str, Any], float]:
    """Its configuration, whose network the search may have chosen, and its score; the study's before `evaluate`."""
    try:
        evaluation = evaluation_of(run)
    except RunError:
        # What the bound is worth is one cell of the table; `evaluate` says what is wrong with its file.
        return BARE, float("nan")
    row = ((evaluation or {}).get("methods") or {}).get("lower_bound", {})
    values = row.get("validation") or []
    return row.get("configuration") or BARE, sum(values) / len(values) if values else float("nan")
