"""Several runs side by side: what each came to, whether they may be compared, and the paired differences where so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pkdray.diagnostics.cost_table import architecture_cost
from pkdray.diagnostics.evaluations import evaluation_of
from pkdray.errors import CheckpointError
from pkdray.search.ledger import summary
from pkdray.search.run import Run
from pkdray.training.bundles import read_info
from pkdray.training.metrics import METRICS

Place: TypeAlias = tuple[int | None, int]
"""A fold (None: the split column) and a seed."""
Test: TypeAlias = Callable[[Sequence[float], Sequence[float], str], dict[str, Any]]
"""(scores of the reference, scores of the other, mode) -> what `evaluate.statistics.compare_pairs` says."""
Correct: TypeAlias = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
"""Several such comparisons -> the same with Holm's correction."""


@dataclass(frozen=True)
class RunSummary:
    """What one run came to; ``methods`` and ``comparison`` are None where it was not evaluated.

    Args:
        name: as the table calls it.
        dataset: its name.
        fingerprint: the dataset's.
        fold: that the search ran on; None for the split column.
        metric: the study's; ``mode`` is ``max`` or ``min``.
        mode: of the metric.
        method: of ``trial``; None while no trial is complete.
        trial: the evaluated student's, or the best of the search.
        trials: how many are ``planned``, ``complete``, ``pruned`` and ``failed``.
        validation: the best trial's value.
        parameters: of the trial's student, and ``macs`` of one sample; None before there is one.
        macs: multiply-accumulates.
        outdated: an older pkdray evaluated it.
        folds: of the evaluation.
        seeds: of the evaluation.
        methods: of the evaluation.
        comparison: the student against the lower bound.
        scores: the student's test scores by fold and seed; None where a training diverged.
    """

    name: str
    dataset: str
    fingerprint: str
    fold: int | None
    metric: str
    mode: str
    method: str | None
    trial: int | None
    trials: Mapping[str, int]
    validation: float | None
    parameters: int | None
    macs: int | None
    outdated: bool
    folds: tuple[int | None, ...]
    seeds: tuple[int, ...]
    methods: Mapping[str, Any] | None
    comparison: Mapping[str, Any] | None
    scores: Mapping[Place, float | None]


def summarise(run: Run, name: str | None = None) -> RunSummary:
    """What a run came to, from its own folder alone: its dataset and its pool may be elsewhere.

    Raises:
        RunError: its ledger or its evaluation is damaged.
    """
    ledger = run.ledger()
    counts, best = ledger.counts(), ledger.best()
    evaluation = evaluation_of(run)
    said = evaluation or {}
    # Which of the best trials' students is the one, an evaluation decides.
    number = said.get("trial", best.number if best else None)
    about = summary(ledger.trials()[number]) if number is not None else {}
    metric = run.config.search.metric or ""
    student = (said.get("methods") or {}).get("student") or {}
    cost = _cost(run, number)
    return RunSummary(
        name=name or run.name,
        dataset=str(run.about["dataset"]),
        fingerprint=str(run.about["dataset_fingerprint"]),
        fold=run.config.dataset.fold,
        metric=metric,
        mode=METRICS[metric].mode,
        method=about.get("method"),
        trial=number,
        trials={key: getattr(counts, key) for key in ("planned", "complete", "pruned", "failed")},
        validation=best.value if best else None,
        parameters=cost[0],
        macs=cost[1],
        outdated=evaluation == {},
        folds=tuple(said.get("folds") or ()),
        seeds=tuple(said.get("seeds") or ()),
        methods=said.get("methods"),
        comparison=next(iter(said.get("comparisons") or []), None),
        scores={
            (pair["fold"], pair["seed"]): (pair.get("test") or {}).get(metric) for pair in student.get("pairs") or []
        },
    )


def _cost(run: Run, number: int | None) -> tuple[int | None, int | None]:
    """Parameters and MACs of the best student; an interrupted sweep has none yet, or an older trial's."""
    try:
        info = read_info(run.best)
    except CheckpointError:
        return None, None
    if info.made_from.get("trial") != number:
        return None, None
    found = architecture_cost(info.architecture)
    return found.parameters, found.macs


def differences(runs: Sequence[RunSummary]) -> list[str]:
    """What keeps the runs from being compared number by number, a line each; nothing where they may be.

    Example:
        >>> differences([])
        []
    """
    lines = []
    about: dict[str, Callable[[RunSummary], str]] = {
        "datasets": lambda run: f"{run.dataset} ({run.fingerprint})",
        "metrics": lambda run: run.metric,
        "folds of the search": lambda run: _fold(run.fold),
    }
    for what, of in about.items():
        lines += _differing(what, {run.name: of(run) for run in runs})
    evaluated = {run.name: ", ".join(map(_fold, run.folds)) for run in runs if run.methods}
    return lines + _differing("folds of the evaluation", evaluated)


def _differing(what: str, values: Mapping[str, str]) -> list[str]:
    if len(set(values.values())) < 2:
        return []
    return [f"Not comparable, the {what} differ: {'; '.join(f'{name}: {value}' for name, value in values.items())}."]


def _fold(fold: int | None) -> str:
    return "the split column" if fold is None else f"fold {fold}"


def pairs(reference: RunSummary, other: RunSummary) -> list[tuple[float, float]]:
    """The test scores of both students, pair by pair, if seeds, folds, metric and dataset are the same; else none."""
    same = (
        reference.fingerprint == other.fingerprint
        and reference.metric == other.metric
        and reference.scores.keys() == other.scores.keys()
    )
    both = [(value, other.scores[place]) for place, value in reference.scores.items()] if same else []
    return [(one, two) for one, two in both if one is not None and two is not None]


def paired(runs: Sequence[RunSummary], test: Test, correct: Correct) -> list[dict[str, Any]]:
    """The first run's student against each other's, where seeds, folds and dataset are the same.

    Args:
        runs: the first is the reference.
        test: a paired test of scores.
        correct: corrects for there being several.

    Returns:
        What ``correct`` gives, each with ``run``, ``against`` and a ``sentence``.
    """
    found, names = [], []
    for other in runs[1:]:
        scores = pairs(runs[0], other)
        if scores:
            found.append(test([one for one, _ in scores], [two for _, two in scores], other.mode))
            names.append(other.name)
    told = []
    for name, one in zip(names, correct(found) if found else [], strict=True):
        labelled = {"run": name, "against": runs[0].name, **one}
        told.append({**labelled, "sentence": _sentence(labelled, runs[0].metric)})
    return told


def _sentence(one: Mapping[str, Any], metric: str) -> str:
    verdicts = {
        "helped": f"The student of {one['run']} is better than that of {one['against']}",
        "hurt": f"The student of {one['run']} is worse than that of {one['against']}",
    }
    verdict = verdicts.get(
        one["verdict"], f"Not enough evidence that the students of {one['run']} and {one['against']} differ"
    )
    details = []
    if one["interval"]:
        details.append(f"95 % {one['interval'][0]:+.4f} to {one['interval'][1]:+.4f}")
    details.append(f"better in {one['wins']} of {one['pairs']} pairs")
    test = one["tests"]["wilcoxon"]
    if test["p_holm"] is not None:
        details.append(f"Wilcoxon p = {test['p_holm']:.2g}{' (Holm)' if test['p_holm'] != test['p'] else ''}")
    return f"{verdict}: {one['difference']:+.4f} {metric} ({', '.join(details)})."


def as_row(run: RunSummary) -> dict[str, Any]:
    """A run as one flat row of numbers and words, None where something is not known."""
    methods, comparison = run.methods or {}, run.comparison or {}
    row: dict[str, Any] = {
        "run": run.name,
        "dataset": run.dataset,
        "method": run.method,
        **{key: run.trials[key] for key in ("planned", "complete", "pruned", "failed")},
        "metric": run.metric,
        "validation": run.validation,
    }
    for key in ("lower_bound", "student"):
        said = methods.get(key) or {}
        low, high = said.get("interval") or (None, None)
        row |= {key: said.get("mean"), f"{key}_std": said.get("std"), f"{key}_low": low, f"{key}_high": high}
    return row | {
        "gain": comparison.get("difference"),
        "p_holm": ((comparison.get("tests") or {}).get("wilcoxon") or {}).get("p_holm"),
        "verdict": comparison.get("verdict"),
        "teacher": (methods.get("teacher") or {}).get("mean"),
        "parameters": run.parameters,
        "macs": run.macs,
    }


COLUMNS = (
    "run",
    "dataset",
    "method",
    "trials (complete/pruned/failed)",
    "validation",
    "lower bound",
    "student",
    "gain",
    "teacher",
    "parameters",
    "MACs",
)


def as_text(run: RunSummary) -> list[str]:
    """A run as the cells of `COLUMNS`, for a person; a dash where something is not known."""
    row, trials = as_row(run), run.trials
    gain = "-"
    if row["gain"] is not None:
        p = f" (p = {row['p_holm']:.2g})" if row["p_holm"] is not None else ""
        gain = f"{row['gain']:+.4f}{p}, {row['verdict']}"
    return [
        run.name,
        run.dataset,
        run.method or "-",
        f"{trials['complete']}/{trials['pruned']}/{trials['failed']} of {trials['planned']}",
        _number(row["validation"]),
        _spread(row, "lower_bound"),
        _spread(row, "student"),
        gain,
        _number(row["teacher"]),
        f"{run.parameters:,}" if run.parameters is not None else "-",
        f"{run.macs:,}" if run.macs is not None else "-",
    ]


def _spread(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    spread = f" +- {row[f'{key}_std']:.4f}" if row[f"{key}_std"] is not None else ""
    interval = f" ({row[f'{key}_low']:.4f} to {row[f'{key}_high']:.4f})" if row[f"{key}_low"] is not None else ""
    return f"{row[key]:.4f}{spread}{interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def remarks(runs: Sequence[RunSummary]) -> list[str]:
    """What a reader of the table must know: what differs, and who was not evaluated."""
    lines = differences(runs)
    without = [run.name for run in runs if not run.methods and not run.outdated]
    if without:
        lines.append(f"Not evaluated, so validation alone is shown: {', '.join(without)}.")
    older = [run.name for run in runs if run.outdated]
    if older:
        lines.append(f"Evaluated by an older pkdray, whose numbers are not shown: {', '.join(older)}.")
    return lines
