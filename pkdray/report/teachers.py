"""The teacher pool: how good each teacher is, who taught whom, and when the gate kept a teacher out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pkdray.report.blocks import Block, Cell, Missing, Plot, Plots, Section, Table, Text, plain
from pkdray.report.facts import TOP, Facts, method_of
from pkdray.report.theme import BLUE, FAINT, GREEN, MUTED, colour, legible
from pkdray.search.ledger import summary

_MOST_GROUPS = 24
_FIXED = ("group", "samples", "gate_open")


def section(facts: Facts) -> Section:
    """Comparison of teachers, shares of rows taught, and the gate."""
    return Section("teachers", "Teachers", [_pool(facts), _pool_table(facts), _shares(facts), *_transfer(facts)])


def pool_scores(teachers: Mapping[str, Mapping[str, Any]], metric: str, student: float | None) -> go.Figure:
    """Each teacher's score on validation, adapters paler, with the best student as a line.

    Args:
        teachers: name -> what pool.yaml says of it.
        metric: which of its metrics.
        student: the best student's score.
    """
    names = legible([str(name) for name in teachers])
    values = [about["validation"].get(metric) for about in teachers.values()]
    adapters = [about.get("adapter_of") is not None for about in teachers.values()]
    figure = go.Figure()
    kinds = ((False, "teacher", "square", GREEN), (True, "adapter of one modality", "circle", BLUE))
    for adapter, label, symbol, tint in kinds:
        kept = [index for index, is_adapter in enumerate(adapters) if is_adapter == adapter]
        if kept:
            figure.add_scatter(
                x=[values[index] for index in kept],
                y=[names[index] for index in kept],
                mode="markers",
                name=label,
                marker={"color": tint, "symbol": symbol, "size": 12},
                hovertemplate="%{y}: %{x:.4f}<extra></extra>",
            )
    if student is not None:
        figure.add_vline(
            x=student, line={"color": MUTED, "dash": "dot", "width": 1.5},
            annotation={"text": "best student", "font": {"color": MUTED}, "yanchor": "bottom", "y": 0},
        )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    figure.update_xaxes(title=f"validation {metric}")
    return figure


def stacked(groups: Sequence[str], shares: Mapping[str, Sequence[float]]) -> go.Figure:
    """Shares of rows by teacher, stacked, one bar a group.

    Args:
        groups: names of trials, classes or subjects.
        shares: teacher -> its share in each group, 0 to 1.
    """
    figure = go.Figure()
    names = legible([str(group) for group in groups])
    for index, (teacher, values) in enumerate(shares.items()):
        figure.add_bar(
            x=[100 * value for value in values],
            y=names,
            orientation="h",
            name=plain(teacher),
            marker={"color": colour(index), "pattern": {"shape": "/" if index >= 6 else ""}},
            hovertemplate="%{y}: %{x:.0f} %<extra>" + plain(teacher).replace("%{", "% {") + "</extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")
    figure.update_xaxes(title="rows taught, %", range=[0, 100])
    return figure


def gates(groups: Sequence[str], shares: Sequence[float]) -> go.Figure:
    """How often the gate was open, one bar a group."""
    names = legible([str(group) for group in groups])
    figure = go.Figure()
    figure.add_bar(
        x=[100] * len(names), y=names, orientation="h", marker={"color": FAINT}, opacity=0.35, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip
    figure.add_bar(
        x=[100 * share for share in shares],
        y=names,
        orientation="h",
        marker={"color": BLUE},
        hovertemplate="%{y}: open for %{x:.0f} % of rows<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")
    figure.update_xaxes(title="open, % of rows", range=[0, 100])
    return figure


def most_closed(table: pd.DataFrame, most: int = _MOST_GROUPS) -> pd.DataFrame:
    """The groups whose gate was closed most often, in their own order where all of them are kept."""
    return table if len(table) <= most else table.sort_values("gate_open", kind="stable").head(most)


def _pool(facts: Facts) -> Block:
    if facts.pool is None:
        return Missing("Scores of the teachers", facts.why("pool") or facts.why("dataset"))
    teachers = facts.pool["teachers"]
    student = facts.complete[0].value if facts.complete else None
    says = (
        f"Further {'right' if facts.mode == 'max' else 'left'} is better: a teacher has something to teach where it is "
        "well ahead of the dotted line, the best student on validation."
    )
    figure = pool_scores(teachers, facts.metric, student)
    return Plots("Scores of the teachers", says, [Plot(figure, height=130 + 30 * len(teachers))])


def _pool_table(facts: Facts) -> Block:
    if facts.pool is None:
        return Missing("Table of the teachers", "It is in pool.yaml, which could not be read.")
    teachers = facts.pool["teachers"]
    metrics = list(dict.fromkeys(name for about in teachers.values() for name in about["validation"]))
    rows = [
        [
            name,
            ", ".join(about["modalities"]),
            f"adapter of {about['adapter_of']}" if about.get("adapter_of") else "trained",
            *(about["validation"].get(metric) for metric in metrics),
        ]
        for name, about in teachers.items()
    ]
    return Table("Table of the teachers", "Scores on validation.", ["teacher", "modalities", "made as", *metrics], rows)


def _shares(facts: Facts) -> Block:
    told = [(trial, summary(trial).get("teachers") or {}) for trial in facts.complete[: 2 * TOP]]
    told = [(trial, shares) for trial, shares in told if shares]
    if not told:
        return Missing("Who taught the best trials", "None of the best trials had a teacher.")
    names = list(dict.fromkeys(name for _, shares in told for name in shares))
    groups = [f"{trial.number} {method_of(trial, facts)}" for trial, _ in told]
    shares = {name: [float(one.get(name, 0.0)) for _, one in told] for name in names}
    says = (
        "The best complete trials from the top, and the share of training rows that each teacher taught, mean over the "
        "epochs: where good trials agree on a teacher, it is the one to keep. What is missing to 100 % nobody taught."
    )
    height = 140 + 28 * len(told)
    return Plots("Who taught the best trials", says, [Plot(stacked(groups, shares), height=height)])


def _transfer(facts: Facts) -> list[Block]:
    found = facts.negative_transfer
    if found is None:
        return [Missing("The gate, by teacher, class and subject", facts.why("negative_transfer"))]
    blocks: list[Block] = [
        Text(f"Trial {facts.best}: {found.sentence}", kind="said"),
        Table(
            "What each teacher taught",
            f"Of the best trial, replayed over {found.epochs} epochs on the training rows. The gate keeps a teacher "
            "out of a row where its own answer is poor (negative transfer).",
            [
                "teacher",
                "modalities",
                "rows taught",
                "gate open",
                "mean loss",
                "mean gamma",
                f"validation {facts.metric}",
            ],
            [
                [
                    row.teacher,
                    row.modalities if isinstance(row.modalities, str) else ", ".join(row.modalities),
                    _percent(row.rows_taught),
                    _percent(row.gate_open),
                    row.mean_loss,
                    row.mean_gamma,
                    row.validation,
                ]
                for row in found.teachers.itertuples()
            ],
        ),
    ]
    for table, word, words in ((found.by_class, "class", "classes"), (found.by_subject, "subject", "subjects")):
        title = f"Teachers by {word}"
        if table is None or len(table) < 2 or table["samples"].max() < 2:
            blocks.append(Missing(title, f"There are no {words} of several samples to tell apart."))
            continue
        kept = most_closed(table)
        named = [name for name in table.columns if name not in _FIXED]
        height = 120 + 24 * len(kept)
        only = f" (The {len(kept)} of {len(table)} whose gate was closed most.)" if len(kept) < len(table) else ""
        plots = []
        if (table["gate_open"] < 1).any():
            plots.append(Plot(gates([str(one) for one in kept["group"]], kept["gate_open"].tolist()), "gate", height))
        if len(named) > 1:
            shares = {name: kept[name].fillna(0.0).tolist() for name in named}
            taught = stacked([str(one) for one in kept["group"]], shares)
            plots.append(Plot(taught, "shares of the teachers", height))
        if not plots:
            blocks.append(Missing(title, f"One teacher taught every row of every {word}."))
            continue
        says = (
            f"Where the gate's bar is short, teachers would have misled the student and were kept out; colours that "
            f"change from {word} to {word} are teachers that specialise.{only}"
        )
        blocks.append(Plots(title, says, plots, least=340))
    return blocks


def _percent(share: float) -> Cell:
    return Cell("–", None) if share is None or share != share else Cell(f"{100 * share:.1f} %", share)
