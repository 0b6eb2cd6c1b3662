"""The evaluation: the student between its bounds, every method's values, and the comparisons in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pkdray.report.blocks import Block, Missing, Plot, Plots, Section, Table, Text, count, number, p_value, plain
from pkdray.report.facts import Facts
from pkdray.report.theme import COLOURS, GRID, INK, MUTED, ROLES, SYMBOLS, legible

_OTHERS = tuple(colour for colour in COLOURS if colour not in ROLES.values())


def section(facts: Facts) -> Section:
    """The evaluation's tables and figures, or the command that makes them."""
    return Section("evaluation", "Evaluation", _blocks(facts))


def _blocks(facts: Facts) -> list[Block]:
    evaluation = facts.evaluation
    if evaluation is None:
        return [not_evaluated(facts)]
    metric = evaluation["metric"]
    seeds, folds = len(evaluation["seeds"]), len(evaluation["folds"])
    trained = f"{count(seeds, 'seed')}" + (f" × {count(folds, 'fold')}" if folds > 1 else "")
    level = f"{100 * evaluation['confidence']:g} %"
    blocks: list[Block] = []
    if facts.overtaken is not None:
        says = f"{facts.overtaken} What follows is of trial {evaluation['trial']} alone."
        blocks.append(Text(says, facts.command("evaluate", *facts.as_then), kind="note"))
    if len(facts.openings) > evaluation["test_opened"]["times"]:
        blocks.append(
            Text("The test split was opened again after this evaluation, and no other one came of it.", kind="note")
        )
    blocks += [
        Text(
            f"Each method was trained anew with {trained}; epochs and configurations were chosen on validation. "
            f"{facts.opened}"
        ),
        Plots(
            f"Test {metric} by method",
            f"Each small point is one training, each large mark a mean with its {level} interval: the further the "
            f"student lies from the lower bound, and the less the two overlap, the more it gained ({facts.better}).",
            [Plot(intervals(evaluation), height=90 + 56 * len(evaluation["methods"]))],
        ),
        methods_table(evaluation),
        comparisons_table(evaluation),
    ]
    blocks += [Text(comparison["sentence"], kind="said") for comparison in evaluation["comparisons"]]
    blocks += [Text(note, kind="note") for note in evaluation.get("notes", [])]
    return blocks


def not_evaluated(facts: Facts) -> Missing:
    """What a run says that has no evaluation, be its test split opened or not."""
    why = [facts.why("evaluation"), facts.opened]
    if facts.openings and not facts.why("evaluation"):
        why.append(
            "No evaluation of it can be read: scoring was interrupted, evaluation.json was moved away, or an older "
            "pkdray wrote it."
            + ("" if "--reopen" in facts.as_then else " The same request as then is not counted again.")
        )
    why.append("The numbers below are of validation, on which the search chose.")
    return Missing("Not evaluated", " ".join(filter(None, why)), facts.command("evaluate", *facts.as_then))


def intervals(evaluation: Mapping[str, Any]) -> go.Figure:
    """Every method in a line of its own: its trainings as points, their mean and its interval."""
    methods = evaluation["methods"]
    labels = dict(zip(methods, legible([str(about["label"]) for about in methods.values()]), strict=True))
    figure = go.Figure()
    others = 0
    for key, about in methods.items():
        if key in ROLES:
            colour = ROLES[key]
        else:
            colour = _OTHERS[others % len(_OTHERS)]
            others += 1
        figure.add_scatter(
            x=about["values"],
            y=[labels[key]] * len(about["values"]),
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.45},
            hovertemplate="%{x:.4f}<extra>one training</extra>",
            showlegend=False,
        )
        interval = about["interval"]
        figure.add_scatter(
            x=[about["mean"]],
            y=[labels[key]],
            mode="markers",
            marker={"color": colour, "size": 13, "symbol": SYMBOLS.get(key, "triangle-up")},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [interval[1] - about["mean"]],
                "arrayminus": [about["mean"] - interval[0]],
                "color": colour,
                "thickness": 2.5,
                "width": 7,
            }
            if interval
            else None,
            name=labels[key],
            hovertemplate="%{x:.4f}<extra>mean</extra>",
            showlegend=False,
        )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title=f"test {evaluation['metric']}")
    return figure


def between_bounds(places: Mapping[str, tuple[str, float, tuple[float, float] | None]], metric: str) -> go.Figure:
    """The student on the way from its lower to its upper bound, on one line.

    Args:
        places: role (``lower_bound``, ``student``, ``teacher``) -> label, value and interval.
        metric: what the values are of.
    """
    figure = go.Figure()
    values = {role: value for role, (_, value, _) in places.items()}
    figure.add_scatter(
        x=[min(values.values()), max(values.values())],
        y=[0, 0],
        mode="lines",
        line={"color": GRID, "width": 10},
        hoverinfo="skip",
        showlegend=False,
    )
    if "lower_bound" in values and "student" in values:
        figure.add_scatter(
            x=[values["lower_bound"], values["student"]],
            y=[0, 0],
            mode="lines",
            line={"color": ROLES["student"], "width": 10},
            opacity=0.35,
            hoverinfo="skip",
            showlegend=False,
        )
    for role, (label, value, interval) in places.items():
        figure.add_scatter(
            x=[value],
            y=[0],
            mode="markers+text",
            marker={"color": ROLES[role], "size": 18, "symbol": SYMBOLS[role]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [interval[1] - value],
                "arrayminus": [value - interval[0]],
                "color": INK,
                "thickness": 1.5,
                "width": 5,
            }
            if interval
            else None,
            text=[f"{plain(label)}<br><b>{number(value)}</b>"],
            textposition="top center" if role == "student" else "bottom center",
            textfont={"color": INK},
            cliponaxis=False,
            hovertemplate=f"%{{x:.4f}}<extra>{metric}</extra>",
            showlegend=False,
        )
    ends = [*values.values(), *(end for _, _, interval in places.values() if interval for end in interval)]
    span = max(ends) - min(ends) or 1.0
    figure.update_xaxes(
        range=[min(ends) - 0.16 * span, max(ends) + 0.16 * span],
        showgrid=False,
        tickfont={"color": MUTED},
        nticks=6,
    )
    figure.update_yaxes(visible=False, range=[-1, 1], fixedrange=True)
    return figure


def methods_table(evaluation: Mapping[str, Any]) -> Table:
    """Mean, deviation and interval of every method, test and validation."""
    metric = evaluation["metric"]
    rows = []
    for about in evaluation["methods"].values():
        interval = about["interval"]
        validation = [value for value in about.get("validation") or [] if value is not None]
        rows.append(
            [
                about["label"],
                about["what"],
                about["mean"],
                about["std"],
                f"{number(interval[0])} to {number(interval[1])}" if interval else None,
                len(about["values"]),
                sum(validation) / len(validation) if validation else None,
            ]
        )
    return Table(
        "Methods",
        "The lower bound has the student's modalities and the labels alone; the upper bound is the teacher, who sees "
        "everything.",
        ["method", "what", f"test {metric}", "std", f"{100 * evaluation['confidence']:g} % interval", "trainings",
         f"validation {metric}"],
        rows,
    )  # fmt: skip


def measured(interval: Sequence[float] | None, sign: int) -> tuple[float, float] | None:
    """An interval in the metric's own sign; evaluation.json has gains, which are above zero.

    Args:
        interval: of a gain.
        sign: 1 where more is better, -1 where less is.

    Example:
        >>> measured([0.125, 0.5], -1)
        (-0.5, -0.125)
    """
    if interval is None:
        return None
    low, high = sorted(sign * end for end in interval)
    return low, high


def comparisons_table(evaluation: Mapping[str, Any]) -> Table:
    """Each comparison with its p values, corrected for how many there are."""
    labels = {key: about["label"] for key, about in evaluation["methods"].items()}
    tests = list(dict.fromkeys(name for comparison in evaluation["comparisons"] for name in comparison["tests"]))
    sign = 1 if evaluation["mode"] == "max" else -1
    rows = []
    for comparison in evaluation["comparisons"]:
        interval = measured(comparison["interval"], sign)
        resampled = measured((comparison["tests"].get("bootstrap") or {}).get("interval"), sign)
        rows.append(
            [
                f"{labels.get(comparison['method'], comparison['method'])} against "
                f"{labels.get(comparison['against'], comparison['against'])}",
                comparison["verdict"],
                f"{sign * comparison['difference']:+.4f}",
                f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else None,
                comparison["effect_size"],
                f"{comparison['wins']} of {comparison['pairs']}"
                + (f", {count(comparison['ties'], 'tie')}" if comparison["ties"] else ""),
                *(p_value((comparison["tests"].get(name) or {}).get("p_holm")) for name in tests),
                f"{resampled[0]:+.4f} to {resampled[1]:+.4f}" if resampled else None,
                comparison["more_seeds"],
            ]
        )
    return Table(
        "Comparisons",
        f"Differences of test {evaluation['metric']} are paired: the same seed and fold on both sides"
        f"{'; below zero is better, and an effect size above it' if sign < 0 else ''}. The p values are corrected for "
        "the number of comparisons (Holm).",
        ["comparison", "verdict", "difference", f"{100 * evaluation['confidence']:g} % interval", "effect size", "wins",
         *(f"p ({name})" for name in tests), "interval (bootstrap)", "more seeds"],
        rows,
    )  # fmt: skip
