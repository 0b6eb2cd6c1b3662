"""Every trial in one table, what failed and why, and what ran where and for how long."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from pkdray import mirrors
from pkdray.evaluate.on_ray import FOLDER
from pkdray.evaluate.trainings import TRAINED
from pkdray.report.blocks import Block, Cell, Missing, Plot, Plots, Section, Table, Text, count, duration, plain
from pkdray.report.facts import Facts, method_of, proposed, seconds_of
from pkdray.report.search import short_names
from pkdray.report.theme import BLUE, FAINT, GOLD, ORANGE
from pkdray.report.thinning import drawn, thinned
from pkdray.search.ledger import reason, summary

_STATES = {"complete": BLUE, "pruned": FAINT, "fail": ORANGE, "running": GOLD}
_UNKNOWN = "computer not recorded"
_MOST_ROWS, _MOST_BARS, _MOST_FAILURES = 2000, 2000, 200


def section(facts: Facts) -> Section:
    """Table of all trials and of failures."""
    if not facts.trials:
        return Section("trials", "All trials", [Missing("All trials", "No trial has been asked for yet.")])
    return Section("trials", "All trials", [_table(facts), _failures(facts)])


def where_section(facts: Facts) -> Section:
    """What ran where, and for how long."""
    return Section("where", "What ran where", _where(facts))


def place_of(trial: FrozenTrial) -> str:
    """The computer and the device of a trial, as its summary says."""
    return _place(summary(trial))


def _place(said: Mapping[str, Any]) -> str:
    parts = [str(said[key]) for key in ("node", "device") if said.get(key)]
    return " · ".join(parts) or _UNKNOWN


def lanes(spans: Sequence[tuple[datetime, datetime]]) -> list[int]:
    """Lanes in which spans that overlap lie side by side, as few as can be.

    Args:
        spans: start and end, in order of their starts.

    Returns:
        The lane of each span, from 0.

    Example:
        >>> at = [datetime(2026, 1, 1, hour) for hour in range(4)]
        >>> lanes([(at[0], at[2]), (at[1], at[3]), (at[2], at[3])])
        [0, 1, 0]
    """
    until: list[datetime] = []
    found = []
    for start, end in spans:
        lane = next((index for index, free in enumerate(until) if free <= start), len(until))
        if lane == len(until):
            until.append(end)
        else:
            until[lane] = end
        found.append(lane)
    return found


def timeline(trials: Sequence[FrozenTrial]) -> go.Figure:
    """Trials as bars over time, those that ran at once on one computer below each other; of many, some."""
    timed = [
        (trial, trial.datetime_start, trial.datetime_complete)
        for trial in sorted(
            trials, key=lambda trial: (trial.datetime_start is None, trial.datetime_start, trial.number)
        )
        if trial.datetime_start is not None and trial.datetime_complete is not None
    ]
    timed = [timed[index] for index in drawn(len(timed), _MOST_BARS)]
    rows: dict[int, str] = {}
    names: list[str] = []
    for place in dict.fromkeys(place_of(trial) for trial, _, _ in timed):
        here = [one for one in timed if place_of(one[0]) == place]
        given = lanes([(start, end) for _, start, end in here])
        for (trial, _, _), lane in zip(here, given, strict=True):
            rows[trial.number] = f"{plain(place)} #{lane + 1}"
        names += [f"{plain(place)} #{lane + 1}" for lane in range(max(given) + 1)]
    figure = go.Figure()
    for state, colour in _STATES.items():
        kept = [one for one in timed if one[0].state.name.lower() == state]
        if kept:
            figure.add_bar(
                base=[start.isoformat() for _, start, _ in kept],
                x=[(end - start).total_seconds() * 1000 for _, start, end in kept],
                y=[rows[trial.number] for trial, _, _ in kept],
                orientation="h",
                name="failed" if state == "fail" else state,
                marker={"color": colour, "line": {"width": 0}},
                text=[f"trial {trial.number}, {duration((end - start).total_seconds())}" for trial, start, end in kept],
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(type="date")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")
    return figure


def _table(facts: Facts) -> Table:
    ranked = [*facts.complete, *(trial for trial in facts.trials if trial.state.name != "COMPLETE")]
    shown = sorted(ranked[:_MOST_ROWS], key=lambda trial: trial.number)
    drew = proposed(replace(facts, trials=shown))
    paths = list(dict.fromkeys(path for values in drew.values() for path in values if path != "method.name"))
    short = short_names(paths)
    rows = []
    for trial in shown:
        said, values = summary(trial), drew.get(trial.number, {})
        rows.append(
            [
                Cell(str(trial.number), trial.number, strong=trial.number == facts.best),
                "failed" if trial.state.name == "FAIL" else trial.state.name.lower(),
                trial.value,
                method_of(trial, facts),
                said.get("epoch"),
                said.get("epochs") or max(trial.intermediate_values, default=None),
                *(_cell(values.get(path)) for path in paths),
            ]
        )
    says = (
        f"Validation {facts.metric}; of a pruned trial, the last value that it reported. Click a header to sort; the "
        "trial in bold is the one that this report calls the best."
    )
    if len(shown) < len(facts.trials):
        says += (
            f" These are {len(shown):,} of {len(facts.trials):,} trials, the best complete ones first of all; "
            "trials.parquet has them all."
        )
    columns = ["trial", "state", facts.metric, "method", "best epoch", "epochs", *(short[path] for path in paths)]
    return Table("All trials", says, columns, rows)


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell("", None)
    if isinstance(value, list):
        return Cell(" + ".join(map(str, value)), " + ".join(map(str, value)))
    if isinstance(value, float):
        return Cell(f"{value:.4g}", value)
    return Cell(str(value), value if isinstance(value, int) and not isinstance(value, bool) else str(value))


def _failures(facts: Facts) -> Block:
    failed = [trial for trial in facts.trials if trial.state.name == "FAIL"]
    if not failed:
        return Text("No trial failed.")
    last = failed[-_MOST_FAILURES:]
    rows = [[trial.number, method_of(trial, facts), reason(trial) or "not recorded"] for trial in last]
    says = f"{count(len(failed), 'trial')} failed."
    if len(last) < len(failed):
        says += f" These are the last {len(last):,}; trials.parquet has them all."
    return Table("Failures", says, ["trial", "method", "reason"], rows)


def _where(facts: Facts) -> list[Block]:
    timed = [trial for trial in facts.trials if seconds_of(trial) is not None]
    if not timed:
        return [Missing("Time line", "No trial has ended yet.")]
    rows: dict[tuple[str, str], list[float]] = {}
    for trial in timed:
        rows.setdefault(("search", place_of(trial)), []).append(_busy(trial))
    # Of a remote run, this machine has the trainings that it made or looked at, not all of them.
    remote = mirrors.uri_of(facts.run.path) is not None
    trained = [] if remote else evaluated(facts.run.path / FOLDER)
    for place, seconds in trained or _chosen(facts.evaluation or {}):
        rows.setdefault(("evaluation", place), []).append(seconds)
    figure = timeline(facts.trials)
    lines = len(figure.layout.yaxis.categoryarray)
    says = (
        f"Each bar is a trial, from start to end; trials at once lie below each other, and a gap is a "
        f"computer that waited. {_places([place_of(trial) for trial in timed])}"
        + thinned("trials", min(len(timed), _MOST_BARS), len(timed))
    )
    table = [
        [
            what,
            place,
            len(seconds),
            Cell(duration(sum(seconds)), sum(seconds)),
            Cell(duration(max(seconds)), max(seconds)),
        ]
        for (what, place), seconds in rows.items()
    ]
    return [
        Plots("Time line", says, [Plot(figure, height=min(900, 140 + 26 * lines))]),
        Table(
            "Time spent",
            "Summed over trainings, so that what ran at once counts as often as it ran. Not counted: teachers, whose "
            "pool keeps no times"
            + ("." if trained or not facts.evaluation else ", and of the evaluation whatever was not chosen."),
            ["for", "where", "trainings", "time", "longest"],
            table,
        ),
    ]


def _busy(trial: FrozenTrial) -> float:
    """How long a trial's process trained; of one that did not say so, from when it was asked for to its end."""
    return float(summary(trial).get("seconds") or seconds_of(trial) or 0.0)


def _places(found: Sequence[str]) -> str:
    known = {place for place in found if place != _UNKNOWN}
    unknown = sum(place == _UNKNOWN for place in found)
    without = f"of {count(unknown, 'trial')} no computer is recorded."
    if not known:
        return without.capitalize()
    return f"{count(len(known), 'place')} took part" + (f"; {without}" if unknown else ".")


def evaluated(folder: Path) -> list[tuple[str, float]]:
    """Where each training of an evaluation ran and its seconds, those that tuned or were not chosen included.

    Args:
        folder: ``<run>/evaluation``; there is none before.
    """
    found = []
    for file in sorted(folder.glob(f"*/{TRAINED}")):
        try:
            found.append(_training(json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, AttributeError):
            # `evaluate` trains it again; what it took is one number of hundreds here.
            continue
    return [one for one in found if one is not None]


def _chosen(evaluation: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The same of evaluation.json, which has those that were chosen alone."""
    methods = evaluation.get("methods", {}).values()
    found = [_training(pair) for about in methods for pair in about.get("pairs", [])]
    return [one for one in found if one is not None]


def _training(said: Mapping[str, Any]) -> tuple[str, float] | None:
    return (_place(said), float(said["seconds"])) if said.get("seconds") is not None else None
