"""What the search saw: Optuna's own pictures of the study, themed alike, by method where the space has conditions."""

from __future__ import annotations

import html
import itertools
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from pkdray.evaluate import until_complete
from pkdray.report.blocks import Block, Missing, Plot, Plots, Section, count, plain
from pkdray.report.facts import Facts, method_of
from pkdray.report.theme import BLUE, FAINT, INK, MUTED, ORANGE, scale, sparse_ticks, step
from pkdray.report.thinning import drawn, evenly, thinned

PAIRS = ("alpha", "theta", "epsilon", "top_k")
"""Of which parameters pairs are drawn."""
_LEAST_PAIR, _LEAST_METHOD, _LEAST_IMPORTANCE, _MOST_LINES = 6, 3, 4, 200
_MOST_POINTS, _MOST_FOREST, _MOST_GROUND = 1000, 200, 100
"""Trials in a cloud of points, in a forest that weighs parameters, and below a contour, whose grid is the square."""
_SWITCH = re.compile(r"\[.+\]")


def section(facts: Facts) -> Section:
    """History, importances, parallel coordinates, slices and contours."""
    complete = facts.complete
    if len(complete) < 2:
        why = f"{count(len(complete), 'trial is', 'trials are')} complete; the pictures of a search take two."
        return Section("search", "Search", [Missing("Search", why, until_complete(facts.run, facts.counts))])
    blocks: list[Block] = [_history(facts)]
    blocks += _importances(facts)
    blocks += _parallel(facts)
    blocks.append(_slices(facts))
    blocks.append(_contours(facts))
    return Section("search", "Search", blocks)


def study_of(trials: Sequence[FrozenTrial], mode: str, chosen: Iterable[int] | None = None) -> Study:
    """The trials as a study in memory, with parameters' names cut short and made safe for a figure.

    Args:
        trials: rows of the ledger, by number.
        mode: ``max`` or ``min``.
        chosen: numbers of the complete trials that it is of; None: all of them. They are numbered anew, in their order.
    """
    names = {
        name: plain(short) for name, short in short_names({name for trial in trials for name in trial.params}).items()
    }
    kept = None if chosen is None else set(chosen)
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    rows = []
    for trial in complete_ones(trials):
        if kept is not None and trial.number not in kept:
            continue
        rows.append(
            create_trial(
                value=trial.value,
                params={names[name]: value for name, value in trial.params.items()},
                distributions={names[name]: one for name, one in trial.distributions.items()},
            )
        )
    with warnings.catch_warnings():
        # A list among the choices is stored as JSON; nothing is proposed from this copy.
        warnings.simplefilter("ignore", UserWarning)
        study.add_trials(rows)
    return study


def complete_ones(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that have a final value."""
    return [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]


def some(trials: Sequence[FrozenTrial], mode: str, most: int) -> list[int]:
    """Numbers of at most ``most`` complete trials: the better half of them the best there are, the others drawn.

    Where good values lie is what a picture is looked at for; the drawn ones keep the rest of the ground in it.
    """
    sign = -1 if mode == "max" else 1
    ranked = sorted(complete_ones(trials), key=lambda trial: (sign * (trial.value or 0.0), trial.number))
    best, rest = ranked[: most // 2], ranked[most // 2 :]
    return sorted(trial.number for trial in [*best, *(rest[index] for index in drawn(len(rest), most - len(best)))])


def milestones(trials: Sequence[FrozenTrial], mode: str, most: int) -> list[int]:
    """Numbers of the complete trials that a history needs: ``most`` of them, and each that was the best so far."""
    found, best = set(), None
    complete = complete_ones(trials)
    for trial in complete:
        value = trial.value or 0.0
        if best is None or (value > best if mode == "max" else value < best):
            best = value
            found.add(trial.number)
    return sorted(found | {complete[index].number for index in evenly(len(complete), most)})


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Parameters by the end of their path, where that is still unmistakable.

    Example:
        >>> short_names(["method.alpha (method.name=kl|pkd)", "training.learning_rate", "student.tnet.training"])
        {'method.alpha (method.name=kl|pkd)': 'alpha (kl|pkd)', 'student.tnet.training': 'tnet.training', \
'training.learning_rate': 'learning_rate'}
    """
    cut = {
        name: re.sub(r"\b(?:method|training|student|search)\.(?=\w)", "", name).replace("(name=", "(")
        if name != "method.name"
        else "method"
        for name in sorted(names)
    }
    short = list(cut.values())
    return {name: one if short.count(one) == 1 else name for name, one in cut.items()}


def by_method(facts: Facts) -> dict[str, list[int]]:
    """Complete trials by method, the method of the best trial first."""
    found: dict[str, list[int]] = {}
    for trial in facts.complete:
        found.setdefault(method_of(trial, facts), []).append(trial.number)
    return found


def history(trials: Sequence[FrozenTrial], mode: str, metric: str) -> go.Figure:
    """Optuna's optimisation history; of many trials some, and every one that was the best so far."""
    shown = milestones(trials, mode, _MOST_POINTS)
    figure = visualization.plot_optimization_history(study_of(trials, mode, shown), target_name=metric)
    points, best = figure.data[0], figure.data[1]
    points.x = best.x = shown
    figure.update_xaxes(title="trial")
    points.update(name="trial", marker={"color": BLUE, "size": 7, "opacity": 0.75})
    best.update(name="best so far", line={"color": ORANGE, "width": 2, "shape": "hv"})
    # Optuna names trials that break a constraint in the legend, even where there are no constraints.
    figure.data = figure.data[:2]
    return figure


def importances(study: Study, parameters: Sequence[str]) -> go.Figure:
    """Optuna's importances (fANOVA, Hutter et al. 2014) of parameters that all complete trials have."""
    evaluator = FanovaImportanceEvaluator(seed=0)
    figure = visualization.plot_param_importances(study, evaluator=evaluator, params=list(parameters))
    figure.update_traces(marker={"color": BLUE}, textfont={"color": INK})
    # Room for the numbers behind the bars.
    figure.update_xaxes(title="share of the variance", range=[0, 1.2 * max(figure.data[0].x)])
    figure.update_yaxes(title=None)
    return figure


def shared_parameters(study: Study) -> list[str]:
    """Parameters that every complete trial has, with more than one value among them."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not trials:
        return []
    return [
        name
        for name in trials[0].params
        if all(name in trial.params for trial in trials) and len({repr(trial.params[name]) for trial in trials}) > 1
    ]


def parallel(study: Study, parameters: Sequence[str], mode: str, metric: str) -> go.Figure:
    """Optuna's parallel coordinates; the better a trial, the stronger its line."""
    figure = visualization.plot_parallel_coordinate(study, params=list(parameters), target_name=metric)
    for trace in figure.data:
        # Optuna 5 draws lines whose first coordinate is the score; older ones draw a figure of plotly's.
        if trace.type == "parcoords":
            trace.line.update(colorscale=scale(turned=mode == "min"), reversescale=False)
        elif trace.mode == "lines":
            share = float(trace.y[0])
            good = share if mode == "max" else 1 - share
            trace.update(line={"color": step(0.35 + 0.65 * good), "width": 1.2 + 1.6 * good}, opacity=0.85)
    # The first axis is the score: a bar of colours would say it twice.
    figure.data = [trace for trace in figure.data if trace.type == "parcoords" or trace.mode == "lines"]
    broken = [text.replace(" (", "<br>(").replace("[", "<br>[") for text in figure.layout.xaxis.ticktext or ()]
    figure.update_layout(plot_bgcolor=None, margin={"l": 56, "r": 40})
    figure.update_xaxes(ticktext=broken or None, tickangle=0)
    figure.update_annotations(font={"size": 11, "color": MUTED})
    figure.update_shapes(line={"color": FAINT})
    return figure


def slices(study: Study, parameter: str, metric: str) -> go.Figure:
    """Optuna's slice of one parameter, over the trials that have it."""
    figure = visualization.plot_slice(study, params=[parameter], target_name=metric)
    figure.update_traces(
        marker={"colorscale": scale(), "showscale": False, "size": 8, "line": {"width": 0.8, "color": MUTED}}
    )
    figure.update_xaxes(title=None)
    sparse_ticks(figure)
    if figure.layout.xaxis.type == "category":
        # Optuna shows categories as Python writes them.
        bare = [str(value).strip("'") for value in figure.layout.xaxis.categoryarray or ()]
        figure.update_xaxes(categoryarray=bare)
        figure.update_traces(x=[str(value).strip("'") for value in figure.data[0].x])
    return figure


def contour(study: Study, first: str, second: str, mode: str) -> go.Figure:
    """Optuna's contour of a pair of parameters."""
    figure = visualization.plot_contour(study, params=[first, second])
    for trace in figure.data:
        if trace.type == "contour":
            trace.update(
                colorscale=scale(turned=mode == "min"),
                reversescale=False,
                line={"width": 0},
                colorbar={"title": None, "outlinewidth": 0, "thickness": 10},
            )
        else:
            trace.update(marker={"color": INK, "size": 5, "line": {"width": 0}})
    return sparse_ticks(figure)


def pairs(trials: Sequence[FrozenTrial], least: int = _LEAST_PAIR) -> list[tuple[str, str]]:
    """Pairs of alpha, theta, epsilon and top_k (by their full names) that at least ``least`` complete trials have both,
    each with three values or more.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    names = sorted(
        {name for trial in complete for name in trial.params if _base(name) in PAIRS},
        key=lambda name: (PAIRS.index(_base(name)), name),
    )
    found = []
    for first, second in itertools.combinations(names, 2):
        both = [trial for trial in complete if first in trial.params and second in trial.params]
        varied = all(len({trial.params[name] for trial in both}) >= 3 for name in (first, second))
        if len(both) >= least and varied:
            found.append((first, second))
    return found


def _base(name: str) -> str:
    return name.partition(" ")[0].rpartition(".")[2]


def _history(facts: Facts) -> Plots:
    figure = history(facts.trials, facts.mode, facts.metric)
    return Plots(
        "History",
        f"Each point is a complete trial, the line the best so far on validation: once it stays flat, more trials of "
        f"the same kind bring little ({facts.better}).{thinned('trials', len(figure.data[0].x), len(facts.complete))}",
        [Plot(figure, height=340)],
    )


def _importances(facts: Facts) -> list[Block]:
    groups: list[tuple[str, list[int]]] = [("all complete trials", [trial.number for trial in facts.complete])]
    methods = by_method(facts)
    if len(methods) > 1:
        groups += [(f"{name} alone", numbers) for name, numbers in methods.items() if len(numbers) >= 2 * _LEAST_METHOD]
    plots = []
    for name, numbers in groups:
        # Of all, not of the best: an importance among good trials is another one.
        shown = [numbers[index] for index in drawn(len(numbers), _MOST_FOREST)]
        study = study_of(facts.trials, facts.mode, shown)
        names = shared_parameters(study)
        values = {trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
        if len(numbers) < _LEAST_IMPORTANCE or not names or len(values) < 2:
            continue
        title = f"{name}: {len(numbers):,}" + (f", {len(shown):,} of them drawn" if len(shown) < len(numbers) else "")
        plots.append(Plot(importances(study, names), title, height=110 + 34 * len(names)))
    if not plots:
        why = f"It takes {_LEAST_IMPORTANCE} complete trials with different scores, and a parameter that all have."
        return [Missing("Importance of parameters", why)]
    says = (
        "The longer a bar, the more of the score's variance that parameter explains among these trials (fANOVA); of "
        "parameters that only some methods have, the method's own picture speaks. Of few trials it is no more than a "
        "hint."
    )
    return [Plots("Importance of parameters", says, plots, least=360)]


def _parallel(facts: Facts) -> list[Block]:
    groups = {name: numbers for name, numbers in by_method(facts).items() if len(numbers) >= _LEAST_METHOD}
    blocks: list[Block] = []
    for name, numbers in groups.items():
        shown = numbers[:_MOST_LINES]
        study = study_of(facts.trials, facts.mode, shown)
        names = [one for one in shared_parameters(study) if one != "method"]
        if not names:
            continue
        says = (
            f"Each line is a trial of {name}, the strongest are the best: where strong lines meet on an axis, good "
            f"values lie.{thinned('trials', len(shown), len(numbers))}"
        )
        figure = parallel(study, names, facts.mode, facts.metric)
        blocks.append(
            Plots(f"Parallel coordinates: {name}", says, [Plot(figure, height=380)], scrolls=96 * (len(names) + 1))
        )
    if not blocks:
        why = f"No method has {_LEAST_METHOD} complete trials with a searched parameter in common."
        return [Missing("Parallel coordinates", why)]
    return blocks


def _slices(facts: Facts) -> Block:
    shown = some(facts.trials, facts.mode, _MOST_POINTS)
    study = study_of(facts.trials, facts.mode, shown)
    seen: dict[str, set[Any]] = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        for name, value in trial.params.items():
            seen.setdefault(name, set()).add(repr(value))
    # Which teachers were on is told under Teachers; one picture a teacher would bury the others.
    names = sorted(
        (name for name, values in seen.items() if len(values) > 1 and not _SWITCH.search(name)), key=str.lower
    )
    if not names:
        return Missing("Slices", "No parameter has two values among the complete trials.")
    says = (
        "Each point is a complete trial that has the parameter, later ones darker: a slope or a hump says where good "
        "values lie, a cloud that the parameter matters little." + thinned("trials", len(shown), len(facts.complete))
    )
    return Plots(
        "Slices",
        says,
        [Plot(slices(study, name, facts.metric), html.unescape(name), height=290) for name in names],
        least=290,
    )


def _contours(facts: Facts) -> Block:
    found = pairs(facts.trials)
    if not found:
        why = f"No pair of {', '.join(PAIRS)} was searched in {_LEAST_PAIR} complete trials with three values each."
        return Missing("Contours", why)
    names = short_names({name for trial in facts.trials for name in trial.params})
    plots, all_shown, total = [], 0, 0
    for one, other in found:
        both = [trial for trial in facts.complete if one in trial.params and other in trial.params]
        shown = some(both, facts.mode, _MOST_GROUND)
        all_shown, total = all_shown + len(shown), total + len(both)
        study = study_of(both, facts.mode, shown)
        first, second = names[one], names[other]
        plots.append(Plot(contour(study, plain(first), plain(second), facts.mode), f"{first} × {second}", height=350))
    says = (
        f"Stronger ground is better {facts.metric}; points are the trials that it was interpolated from, and away from "
        f"them it is a guess.{thinned('points', all_shown, total)}"
    )
    return Plots("Contours", says, plots, least=360)
