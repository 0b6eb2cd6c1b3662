"""What an answer costs, beside how good it is."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from pkdray.report.blocks import Block, Cell, Missing, Plot, Plots, Section, Table, number, plain
from pkdray.report.facts import Facts
from pkdray.report.theme import ROLES, SYMBOLS, sparse_ticks

AXES = {"parameters": "parameters", "macs": "MACs a sample", "latency_ms": "latency, ms a sample"}


def section(facts: Facts) -> Section:
    """Parameters, MACs and latency against the score."""
    costs = facts.costs
    if costs is None or costs.empty:
        return Section("cost", "Cost", [Missing("Cost against score", facts.why("costs"))])
    shown = [name for name in AXES if costs[name].notna().any() and costs["value"].notna().any()]
    says = (
        f"Up and to the left is more for less ({facts.better}): the distance between circles and squares is what the "
        "student saves, and what it gives up."
    )
    plots = [Plot(against(costs, name, facts.metric), AXES[name], height=330) for name in shown]
    blocks: list[Block] = [Plots("Cost against score", says, plots)] if plots else []
    rows = [
        [
            row["who"],
            *(Cell(_amount(row[name]), row[name]) for name in ("parameters", "macs")),
            row["latency_ms"],
            row["value"],
        ]
        for row in costs.to_dict("records")
    ]
    latency = "Latency is the median of one sample at a time on the computer that made this report, one thread."
    columns = ["who", "parameters", "MACs a sample", "latency, ms", f"validation {facts.metric}"]
    return Section("cost", "Cost", [*blocks, Table("Table of costs", latency, columns, rows)])


def role_of(who: str) -> str:
    """Which of the three roles somebody in the table of costs has.

    Example:
        >>> role_of("teacher joint"), role_of("trial 17"), role_of("lower bound")
        ('teacher', 'student', 'lower_bound')
    """
    if who.startswith("teacher "):
        return "teacher"
    return "lower_bound" if who == "lower bound" else "student"


def against(costs: pd.DataFrame, axis: str, metric: str) -> go.Figure:
    """One kind of cost against the score.

    Args:
        costs: as `pkdray.diagnostics.costs` gives it.
        axis: ``parameters``, ``macs`` or ``latency_ms``.
        metric: what the score is.
    """
    figure = go.Figure()
    known = costs[costs[axis].notna() & costs["value"].notna()]
    roles = known["who"].map(role_of)
    for role, label in (("teacher", "teacher"), ("student", "student (best trials)"), ("lower_bound", "lower bound")):
        rows = known[roles == role]
        if len(rows):
            figure.add_scatter(
                x=rows[axis].tolist(),
                y=rows["value"].tolist(),
                mode="markers",
                name=label,
                marker={"color": ROLES[role], "symbol": SYMBOLS[role], "size": 11, "opacity": 0.85},
                text=[plain(who) for who in rows["who"]],
                hovertemplate="%{text}: %{x:.3s}, %{y:.4f}<extra></extra>",
            )
    # Powers of ten where there is a factor of ten to show.
    wide = len(known) > 0 and known[axis].max() >= 10 * known[axis].min() > 0
    figure.update_xaxes(type="log" if wide else "linear", title=AXES[axis], exponentformat="SI")
    figure.update_yaxes(title=f"validation {metric}")
    return sparse_ticks(figure) if wide and known[axis].max() < 100 * known[axis].min() else figure


def _amount(value: float | None) -> str:
    return "–" if value is None or value != value else number(int(value))
