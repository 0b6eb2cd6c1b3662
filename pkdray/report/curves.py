"""Learning curves: the best trials in colour, those that the scheduler stopped in grey; and how the best one learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from pkdray.report.blocks import Block, Missing, Plot, Plots, Section, plain
from pkdray.report.facts import TOP, Facts, method_of
from pkdray.report.theme import FAINT, MUTED, colour
from pkdray.report.thinning import drawn, evenly, joined, thinned
from pkdray.training.metrics import METRICS

_MOST_GREY, _MOST_EPOCHS = 150, 200
Line = tuple[Sequence[float], Sequence[float]]


def section(facts: Facts) -> Section:
    """Learning curves of the search, and of the best trial alone."""
    return Section("curves", "Learning curves", [_all(facts), _best(facts)])


def line_of(trial: FrozenTrial, curves: pd.DataFrame | None = None) -> Line:
    """Best score so far by epoch: of curves.parquet, which has the last epoch too, or else of the ledger."""
    if curves is not None and {"epoch", "best"} <= set(curves.columns):
        epochs, values = curves["epoch"].tolist(), curves["best"].tolist()
    else:
        points = sorted(trial.intermediate_values.items())
        epochs, values = [float(epoch) for epoch, _ in points], [value for _, value in points]
    kept = evenly(len(epochs), _MOST_EPOCHS)
    return [epochs[index] for index in kept], [values[index] for index in kept]


def learning_curves(
    best: Mapping[str, Line], others: Sequence[Line], stopped: Sequence[Line], metric: str
) -> go.Figure:
    """Lines in colour over lines in grey.

    Args:
        best: label -> epochs and scores, best first.
        others: further complete trials.
        stopped: trials that the scheduler stopped.
        metric: what the scores are of.
    """
    figure = go.Figure()
    for lines, name, dash in ((stopped, "pruned", "solid"), (others, "other complete trials", "dot")):
        if lines:
            x, y = joined(lines)
            figure.add_scatter(
                x=x, y=y, mode="lines", name=name, line={"color": FAINT, "width": 1.1, "dash": dash}, hoverinfo="skip"
            )
    # The best is drawn last, over the others, and listed first.
    for index, (label, (epochs, values)) in reversed(list(enumerate(best.items()))):
        figure.add_scatter(
            x=epochs,
            y=values,
            mode="lines",
            name=label,
            line={"color": colour(index), "width": 3 if index == 0 else 1.8},
            hovertemplate="epoch %{x}: %{y:.4f}<extra>" + label.replace("%{", "% {") + "</extra>",
            legendrank=index,
        )
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(title=f"best validation {metric} so far")
    return figure


def losses(curves: pd.DataFrame) -> go.Figure:
    """The parts of one training's loss by epoch."""
    figure = go.Figure()
    names = [
        name
        for name in curves.columns
        if name.startswith("train/")
        and name.count("/") == 1
        and name != "train/gate_open"
        and curves[name].notna().any()
    ]
    kept = curves.iloc[evenly(len(curves), _MOST_EPOCHS)]
    for index, name in enumerate(names):
        figure.add_scatter(
            x=kept["epoch"].tolist(),
            y=kept[name].tolist(),
            mode="lines",
            name=plain(name.removeprefix("train/")),
            line={"color": colour(index), "width": 2.2 if name == "train/loss" else 1.6},
        )
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(title="loss on train", rangemode="tozero")
    return figure


def scores(curves: pd.DataFrame, metrics: Sequence[str], best_epoch: int | None) -> go.Figure:
    """The validation metrics of one training by epoch, as they were, with the epoch that was kept."""
    figure = go.Figure()
    kept = curves.iloc[evenly(len(curves), _MOST_EPOCHS)]
    for index, name in enumerate(metrics):
        figure.add_scatter(
            x=kept["epoch"].tolist(),
            y=kept[name].tolist(),
            mode="lines",
            name=name,
            line={"color": colour(index), "width": 2.2 if index == 0 else 1.6},
        )
    if best_epoch is not None:
        figure.add_vline(x=best_epoch, line={"color": MUTED, "dash": "dot", "width": 1.5})
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(title="on validation")
    return figure


def _all(facts: Facts) -> Block:
    complete = facts.complete
    stopped = [trial for trial in facts.trials if trial.state == TrialState.PRUNED and trial.intermediate_values]
    if not complete and not stopped:
        return Missing("Curves of the search", "No trial has reported an epoch yet.")
    best = {
        f"trial {trial.number} ({plain(method_of(trial, facts))})": line_of(trial, facts.curves.get(trial.number))
        for trial in complete[:TOP]
    }
    rest = [trial for trial in complete[TOP:] if trial.intermediate_values]
    grey = [rest[index] for index in drawn(len(rest), _MOST_GREY)]
    pruned = [stopped[index] for index in drawn(len(stopped), _MOST_GREY)]
    says = (
        f"In colour the {len(best)} best trials, in grey those that were stopped early and, dotted, the other complete "
        "ones: a grey line that rises as steeply as a coloured one was perhaps stopped too soon."
        + thinned("pruned trials", len(pruned), len(stopped))
        + thinned("other complete trials", len(grey), len(rest))
    )
    figure = learning_curves(
        best, [line_of(trial) for trial in grey], [line_of(trial) for trial in pruned], facts.metric
    )
    return Plots("Curves of the search", says, [Plot(figure, height=430)])


def _best(facts: Facts) -> Block:
    title = "How the best trial learnt"
    curves = facts.curves.get(facts.best) if facts.best is not None else None
    if curves is None or curves.empty:
        why = facts.why(f"curves.{facts.best}") or "The best trial's curves.parquet is not there."
        return Missing(title, why)
    values = curves[facts.metric]
    best_epoch = int(curves["epoch"].iloc[int(values.argmax() if facts.mode == "max" else values.argmin())])
    says = (
        f"Trial {facts.best}: losses that still fall while the validation scores no longer rise are overfitting; the "
        "dotted line is the epoch whose weights were kept."
    )
    # Metrics of another direction have another scale too: an error beside a correlation would flatten it.
    same = [name for name in METRICS if name in curves and METRICS[name].mode == facts.mode and name != facts.metric]
    plots = [
        Plot(scores(curves, [facts.metric, *same], best_epoch), "validation", height=330),
        Plot(losses(curves), "training loss", height=330),
    ]
    return Plots(title, says, plots, least=340)
