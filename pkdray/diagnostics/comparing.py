"""Several runs side by side: what each came to, whether they may be compared, and the paired differences where so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pkdray import mirrors
from pkdray.diagnostics.cost_table import architecture_cost
from pkdray.errors import CheckpointError
from pkdray.evaluate import against_bound, as_then, evaluation_of
from pkdray.evaluate.statistics import compare_pairs, correct_for_several, more_seeds
from pkdray.evaluate.wording import change, evidence
from pkdray.search.ledger import summary
from pkdray.search.run import Run
from pkdray.training.bundles import read_info
from pkdray.training.metrics import METRICS

Place: TypeAlias = tuple[int | None, int]
"""A fold (None: the split column) and a seed."""


@dataclass(frozen=True)
class RunSummary:
    """What one run came to; ``methods`` is None and ``gains`` are empty where it was not evaluated.

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
        validation: the value of ``trial`` in the search.
        parameters: of the trial's student, and ``macs`` of one sample; None before there is one.
        macs: multiply-accumulates.
        outdated: an older pkdray evaluated it; None, or the command that evaluates it again.
        folds: of the evaluation.
        seeds: of the evaluation.
        methods: of the evaluation.
        gains: the comparisons with the lower bound, by method; the student is one.
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
    outdated: str | None
    folds: tuple[int | None, ...]
    seeds: tuple[int, ...]
    methods: Mapping[str, Any] | None
    gains: Mapping[str, Mapping[str, Any]]
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
    trial = ledger.trials()[number] if number is not None else None
    about = summary(trial) if trial is not None else {}
    gains = {name: against_bound(said, name) for name in said.get("methods") or {}}
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
        validation=trial.value if trial is not None else None,
        parameters=cost[0],
        macs=cost[1],
        outdated=" ".join(["pkdray evaluate", mirrors.typed(run.path), *as_then(run)]) if evaluation == {} else None,
        folds=tuple(said.get("folds") or ()),
        seeds=tuple(said.get("seeds") or ()),
        methods=said.get("methods"),
        gains={name: gain for name, gain in gains.items() if gain is not None},
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


def paired(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """The first run's student against each other's, where seeds, folds and dataset are the same.

    Args:
        runs: the first is the reference.

    Returns:
        What `statistics.correct_for_several` gives, each with ``run``, ``against``, ``more_seeds`` and a ``sentence``.
    """
    found, others = [], []
    for other in runs[1:]:
        scores = pairs(runs[0], other)
        if scores:
            found.append(compare_pairs([one for one, _ in scores], [two for _, two in scores], other.mode))
            others.append(other)
    told = []
    for other, one in zip(others, correct_for_several(found), strict=True):
        folds = len(other.folds) or 1
        known = {"run": other.name, "against": runs[0].name, **one, "more_seeds": more_seeds(one, folds)}
        said = evidence(known, other.metric, other=f"that of {runs[0].name}", folds=folds)
        told.append({**known, "sentence": f"{_verdict(known)}: {said}"})
    return told


def _verdict(one: Mapping[str, Any]) -> str:
    if one["verdict"] == "not enough evidence":
        return f"Not enough evidence that the students of {one['run']} and {one['against']} differ"
    better = "better" if one["verdict"] == "helped" else "worse"
    return f"The student of {one['run']} is {better} than that of {one['against']}"


def as_rows(run: RunSummary) -> list[dict[str, Any]]:
    """A run as flat rows of numbers and words, None where something is not known.

    The first row is the run and its student; there is one more for each method that the student was compared with by
    ``--against``, which has the run's name and what is its own. A ``gain`` is positive where it is an improvement.
    """
    methods = run.methods or {}
    rows: list[dict[str, Any]] = [
        {
            "run": run.name,
            "row": "student",
            "dataset": run.dataset,
            "method": run.method,
            **{key: run.trials[key] for key in ("planned", "complete", "pruned", "failed")},
            "metric": run.metric,
            "trial": run.trial,
            "validation": run.validation,
            **_mean("lower_bound", methods.get("lower_bound")),
            **_mean("student", methods.get("student")),
            **_gain(run.gains.get("student")),
            "teacher": (methods.get("teacher") or {}).get("mean"),
            "parameters": run.parameters,
            "macs": run.macs,
        }
    ]
    for name, said in methods.items():
        if name not in ("lower_bound", "student", "teacher"):
            own = {"run": run.name, "row": "against", "method": name, "metric": run.metric, "trial": said.get("trial")}
            rows.append(dict.fromkeys(rows[0]) | own | _mean("student", said) | _gain(run.gains.get(name)))
    return rows


def _mean(key: str, said: Mapping[str, Any] | None) -> dict[str, Any]:
    low, high = (said or {}).get("interval") or (None, None)
    mean, deviation = (said or {}).get("mean"), (said or {}).get("std")
    return {key: mean, f"{key}_std": deviation, f"{key}_low": low, f"{key}_high": high}


def _gain(comparison: Mapping[str, Any] | None) -> dict[str, Any]:
    said = comparison or {}
    low, high = said.get("interval") or (None, None)
    return {
        "gain": said.get("difference"),
        "gain_low": low,
        "gain_high": high,
        "p_holm": ((said.get("tests") or {}).get("wilcoxon") or {}).get("p_holm"),
        "effect_size": said.get("effect_size"),
        "verdict": said.get("verdict"),
        "more_seeds": said.get("more_seeds"),
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


def as_texts(run: RunSummary) -> list[list[str]]:
    """A run as lines of the cells of `COLUMNS`, for a person; a dash where something is not known."""
    first, *others = as_rows(run)
    trials = run.trials
    done = f"{trials['complete']}/{trials['pruned']}/{trials['failed']} of {trials['planned']}"
    return [
        _cells(first, run.method or "-", done),
        *(_cells(row, f"{row['method']} (--against)", "-") for row in others),
    ]


def _cells(row: Mapping[str, Any], method: str, trials: str) -> list[str]:
    return [
        row["run"],
        row["dataset"] or "-",
        method,
        trials,
        _number(row["validation"]),
        _spread(row, "lower_bound"),
        _spread(row, "student"),
        _gained(row),
        _number(row["teacher"]),
        f"{row['parameters']:,}" if row["parameters"] is not None else "-",
        f"{row['macs']:,}" if row["macs"] is not None else "-",
    ]


def _gained(row: Mapping[str, Any]) -> str:
    if row["gain"] is None:
        return "-"
    details = [f"p = {row['p_holm']:.2g}"] if row["p_holm"] is not None else []
    details += [f"d = {row['effect_size']:.1f}"] if row["effect_size"] is not None else []
    told = f" ({', '.join(details)})" if details else ""
    more = f", about {row['more_seeds']} more seeds would settle it" if row["more_seeds"] else ""
    return f"{change(row['gain'], row['metric'])}{told}, {row['verdict']}{more}"


def _spread(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    spread = f" +- {row[f'{key}_std']:.4f}" if row[f"{key}_std"] is not None else ""
    interval = f" ({row[f'{key}_low']:.4f} to {row[f'{key}_high']:.4f})" if row[f"{key}_low"] is not None else ""
    return f"{row[key]:.4f}{spread}{interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def remarks(runs: Sequence[RunSummary]) -> list[str]:
    """What a reader of the table must know: what differs, who was not evaluated, and what not to do with it."""
    lines = differences(runs)
    without = [run.name for run in runs if not run.methods and not run.outdated]
    if without:
        lines.append(f"Not evaluated, so validation alone is shown: {', '.join(without)}.")
    for run in runs:
        if run.outdated:
            lines.append(
                f"Evaluated by an older pkdray, whose numbers are not shown: {run.name}. What is trained is kept; "
                f"evaluate it again: {run.outdated}"
            )
    tested = [run.fingerprint for run in runs if run.methods]
    if len(set(tested)) < len(tested):
        lines.append(
            "To choose among these runs by their test scores would be to select on the test split: each opened it for "
            "itself, and the best of several is there by luck too. Choose by validation."
        )
    return lines
