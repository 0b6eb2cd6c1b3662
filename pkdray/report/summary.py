"""The answer first: the verdict, the student between its bounds, and the facts that a reader asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pkdray.evaluate import against_bound
from pkdray.report.blocks import Block, Plot, Plots, Section, Text, Tile, Tiles, duration, number
from pkdray.report.evaluation import between_bounds
from pkdray.report.facts import Facts, method_of

Places = dict[str, tuple[str, float, tuple[float, float] | None]]


def section(facts: Facts) -> Section:
    """The summary card."""
    blocks: list[Block] = [Text(verdict(facts), kind="verdict")]
    if facts.overtaken is not None and facts.evaluation is not None:
        said = f"{facts.overtaken} Of trial {facts.evaluation['trial']} it said: {_answer(facts.evaluation)}"
        blocks.append(Text(said, facts.command("evaluate", *facts.as_then)))
    elif facts.evaluation is None and facts.best is not None:
        known = facts.why("evaluation") or (facts.opened if facts.openings else "")
        known = known or "Open the test split when the search is done:"
        blocks.append(Text(known, facts.command("evaluate", *facts.as_then)))
    found = places(facts)
    if len(found) > 1:
        blocks.append(Plots("", _says(facts, found), [Plot(between_bounds(found, facts.metric), height=170)]))
    blocks.append(Tiles(tiles(facts)))
    return Section("summary", "Summary", blocks)


def verdict(facts: Facts) -> str:
    """The answer in one sentence: evaluate's own words, or that there is none yet."""
    if facts.current is not None:
        return _answer(facts.current)
    if not facts.complete:
        return "No trial is complete yet, so there is no student to speak of."
    best = facts.complete[0]
    state = "Not evaluated yet." if facts.evaluation is None else f"Trial {best.number} has not been evaluated."
    return (
        f"{state} The best student of the search reaches {facts.metric} {number(best.value)} on validation, "
        "where it was chosen; whether distillation helped is for the test split to say."
    )


def places(facts: Facts) -> Places:
    """Where the student and its bounds stand: on test once it is evaluated, on validation before."""
    if facts.current is not None:
        methods = facts.current["methods"]
        return {
            role: (label, methods[role]["mean"], _interval(methods[role]["interval"]))
            for role, label in (("lower_bound", "lower bound"), ("student", "student"), ("teacher", "upper bound"))
            if role in methods
        }
    found: Places = {}
    if facts.complete:
        found["student"] = ("best trial", facts.complete[0].value or 0.0, None)
    if facts.pool is not None and facts.plan is not None:
        teacher = facts.pool["teachers"].get(facts.plan.first_teacher, {})
        value = teacher.get("validation", {}).get(facts.metric)
        if value is not None:
            found["teacher"] = (f"teacher {facts.plan.first_teacher}", value, None)
    return found


def tiles(facts: Facts) -> list[Tile]:
    """The facts in large print."""
    counts, about, config = facts.counts, facts.run.about, facts.run.config
    ended = [f"{many} {word}" for many, word in ((counts.pruned, "pruned"), (counts.failed, "failed")) if many]
    state = "being swept now" if facts.active else "finished" if counts.finished >= counts.planned else "interrupted"
    result = [
        Tile("Trials", f"{counts.finished} of {counts.planned}", ", ".join([state, *ended])),
        Tile("Search took", duration(elapsed(facts)), f"{config.search.sampler}, seed {about.get('seed')}"),
        Tile("Dataset", str(about.get("dataset")), f"{' + '.join(config.dataset.prevalent)} alone at the end"),
    ]
    if facts.best is not None:
        trial = next(one for one in facts.trials if one.number == facts.best)
        chosen = ", chosen by the evaluation" if facts.best != facts.complete[0].number else ""
        note = f"{method_of(trial, facts)}, {facts.metric} {number(trial.value)} on validation{chosen}"
        result.insert(0, Tile("Best trial", str(facts.best), note))
    share = gap_closed(places(facts), facts.mode)
    if share is not None:
        result.insert(1, Tile("Gap closed", f"{100 * share:.0f} %", "of the way from lower to upper bound"))
    return result


def gap_closed(found: Places, mode: str) -> float | None:
    """The student's share of the way from the lower to the upper bound, below 0 for one that is worse than the lower.

    None without both, and where the teacher is no better than the lower bound: there is no way to go.

    Example:
        >>> at = {r: ("", v, None) for r, v in (("lower_bound", 0.7), ("student", 0.8), ("teacher", 0.9))}
        >>> gap_closed(at, "max"), gap_closed(at, "min")
        (0.5, None)
    """
    if len(found) < 3:
        return None
    lower, student, upper = (found[role][1] for role in ("lower_bound", "student", "teacher"))
    if not (upper > lower if mode == "max" else upper < lower):
        return None
    return round((student - lower) / (upper - lower), 6)


def elapsed(facts: Facts) -> float:
    """Seconds in which at least one trial ran: a night between a kill and its resume does not count."""
    spans = sorted(
        (trial.datetime_start, trial.datetime_complete)
        for trial in facts.trials
        if trial.datetime_start is not None and trial.datetime_complete is not None
    )
    total, until = 0.0, None
    for start, end in spans:
        if until is None or start > until:
            total += (end - start).total_seconds()
            until = end
        elif end > until:
            total += (end - until).total_seconds()
            until = end
    return total


def _says(facts: Facts, found: Places) -> str:
    split = "test" if facts.current is not None else "validation"
    if "lower_bound" in found and "student" in found:
        lower, student = found["lower_bound"][1], found["student"][1]
        gained = student > lower if facts.mode == "max" else student < lower
        band = "gained over" if gained else "lost against"
        return f"Mean {facts.metric} on {split} ({facts.better}): the blue band is what the student {band} the bound."
    return f"On {split}, where the search chose ({facts.better}); the lower bound comes with the evaluation."


def _answer(evaluation: Mapping[str, Any]) -> str:
    """What the evaluation says of the student and its lower bound."""
    found = against_bound(evaluation)
    return (
        str(found["sentence"])
        if found
        else "Student and lower bound share no finished training, so there is no verdict."
    )


def _interval(given: list[float] | None) -> tuple[float, float] | None:
    return (given[0], given[1]) if given else None
