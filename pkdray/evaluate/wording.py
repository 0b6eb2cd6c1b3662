"""What an evaluation says in plain words: a sentence a comparison, and what a reader must bear in mind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pkdray.data.dataset import Dataset
from pkdray.evaluate.rows import by_place
from pkdray.evaluate.statistics import MOST_PAIRS, compare_pairs, contradicts, fewest_pairs
from pkdray.training.metrics import METRICS
from pkdray.training.plan import Plan

FEW = 5
"""With fewer complete trials than this, a method's row may be one odd configuration's."""


def sentence(comparison: Mapping[str, Any], methods: Mapping[str, Any], metric: str, *, folds: int) -> str:
    """One comparison: helped, did not help, or not enough evidence and how many more seeds would settle it.

    Example:
        >>> from pkdray.evaluate.statistics import compare_pairs, correct_for_several
        >>> said = compare_pairs([0.70, 0.72, 0.71, 0.69, 0.70, 0.73], [0.76, 0.77, 0.78, 0.74, 0.77, 0.76], "max")
        >>> about = {"student": {"method": "pkd", "tnet": "none"}, "lower_bound": {"label": "lower bound"}}
        >>> (said,) = correct_for_several([said])
        >>> sentence({"method": "student", "against": "lower_bound", **said}, about, "accuracy", folds=1)[:81]
        'Distillation helped: +0.0550 accuracy over the lower bound (95 % +0.0391 to +0.07'
    """
    other = "the lower bound" if comparison["against"] == "lower_bound" else comparison["against"]
    found = evidence(comparison, metric, other=other, folds=folds)
    return f"{_verdict(comparison, methods)}: {found}"


def evidence(comparison: Mapping[str, Any], metric: str, *, other: str, folds: int = 1) -> str:
    """The numbers of a comparison of `correct_for_several`, and what would settle it where nothing is settled.

    Args:
        comparison: with ``more_seeds``.
        metric: that was compared.
        other: what the difference is to, as the sentence calls it.
        folds: over how many folds the pairs are.
    """
    test, details = comparison["tests"]["wilcoxon"], []
    if comparison["interval"]:
        details.append(f"95 % {change_between(comparison['interval'], metric)}")
    ties = f", equal in {comparison['ties']}" if comparison["ties"] else ""
    details.append(f"better in {comparison['wins']} of {comparison['pairs']} pairs{ties}")
    if test["p_holm"] is not None:
        corrected = " with Holm's correction" if test["p_holm"] != test["p"] else ""
        details.append(f"Wilcoxon p = {test['p_holm']:.2g}{corrected}")
    if comparison["effect_size"] is not None:
        details.append(f"d = {comparison['effect_size']:.1f}")
    gain = comparison["difference"]
    if lower_is_better(metric):
        told = f"{metric} {'lower' if gain >= 0 else 'higher'} by {abs(gain):.4f} than {other}"
    else:
        told = f"{gain:+.4f} {metric} over {other}"
    return f"{told} ({', '.join(details)}).{_more(comparison, folds)}"


def lower_is_better(metric: str) -> bool:
    """Whether a gain in this metric is a fall of it.

    Example:
        >>> lower_is_better("mse"), lower_is_better("accuracy")
        (True, False)
    """
    return METRICS[metric].mode == "min"


def change(gain: float, metric: str) -> str:
    """A gain as the change of the metric that it is, for a table's cell.

    Example:
        >>> change(0.105, "accuracy"), change(0.105, "mse"), change(-0.02, "mse")
        ('+0.1050', '0.1050 lower', '0.0200 higher')
    """
    if not lower_is_better(metric):
        return f"{gain:+.4f}"
    return f"{abs(gain):.4f} {'lower' if gain >= 0 else 'higher'}"


def change_between(interval: Sequence[float], metric: str) -> str:
    """The interval of a gain in the same words.

    Example:
        >>> change_between([0.01, 0.03], "accuracy"), change_between([-0.01, 0.03], "mse")
        ('+0.0100 to +0.0300', '0.0100 higher to 0.0300 lower')
        >>> change_between([-0.03, -0.01], "mse")
        '0.0300 to 0.0100 higher'
    """
    low, high = interval
    first, last = change(low, metric), change(high, metric)
    same = lower_is_better(metric) and (low >= 0) == (high >= 0)
    return f"{first.partition(' ')[0] if same else first} to {last}"


def _verdict(comparison: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    verdict, method = comparison["verdict"], comparison["method"]
    if verdict == "not enough evidence":
        return "Not enough evidence" if method == "student" else f"Not enough evidence for {method}"
    if comparison["against"] != "lower_bound":
        return f"{method.capitalize()} is {'better' if verdict == 'helped' else 'worse'}"
    outcome = "helped" if verdict == "helped" else "did not help, it hurt"
    return _credited(methods[method]) + ("" if method == "student" else f" with {method}") + f" {outcome}"


def _credited(row: Mapping[str, Any]) -> str:
    """What a method has that the lower bound lacks."""
    if row["method"] != "supervised":
        return "Distillation"
    return "The T-Net" if row["tnet"] != "none" else "Tuning alone, without a teacher,"


def _more(comparison: Mapping[str, Any], folds: int) -> str:
    """What would settle it."""
    if comparison["verdict"] != "not enough evidence":
        return ""
    if contradicts(comparison):
        return " Most pairs and the mean point in opposite directions: look at the single trainings."
    if comparison["ties"] == comparison["pairs"]:
        return " No pair differs, so there is nothing to test."
    if comparison["pairs"] == 1:
        family = comparison["family"]
        several = f" for {family} comparisons" if family > 1 else ""
        return f" There is no test of one pair: {math.ceil(fewest_pairs(family) / folds)} seeds are the least{several}."
    more = comparison["more_seeds"]
    if more is None:
        return f" If the difference is what it seems, even {MOST_PAIRS:,} pairs would hardly settle it."
    seeds = f"About {more} more seed{'' if more == 1 else 's'}"
    if folds > 1:
        return f" {seeds} a fold would settle it, if the difference is what it seems and pairs were independent."
    return f" {seeds} would settle it, if the difference is what it seems."


def notes(
    plan: Plan,
    dataset: Dataset,
    methods: Mapping[str, Any],
    *,
    folds: Sequence[int | None],
    same: Sequence[str],
    times: int,
    top: int,
    finalists: Mapping[str, int],
    searched: Mapping[str, tuple[int, int]],
) -> list[str]:
    """What a reader of the numbers must bear in mind.

    Args:
        plan: of the run.
        dataset: its dataset.
        methods: the evaluation's rows.
        folds: that were evaluated.
        same: methods asked for whose chosen trial is the student.
        times: how often the test split was opened.
        top: among how many trials validation was to choose.
        finalists: student and methods with trials -> among how many it could.
        searched: methods with trials -> how many are complete, of how many that have ended.
    """
    own = plan.config.dataset.fold
    said = []
    if len(methods) > 3:
        said.append(
            "The interval of a difference is of that comparison alone; the verdict is Wilcoxon's, corrected for all of "
            "them, and may be more careful."
        )
    if len(folds) == 1:
        count = len(dataset.rows("test", folds[0]))
        said.append(
            f"Intervals and tests are over seeds on one test split of {count} samples: they tell what training chance "
            "does, not how other people would fare."
        )
    others = [fold for fold in folds if fold != own]
    if others:
        where = "another split" if others == [None] else "other folds" if len(others) > 1 else f"fold {others[0]}"
        said.append(
            f"The configuration was searched on {_place(own)}. Subjects who are tested in {where} took part in that "
            f"choice, so {'these folds flatter' if len(others) > 1 else 'its scores flatter'} it a little."
        )
    if own not in folds:
        said.append(
            f"The student in best/ has no test scores, since its test split ({_place(own)}) is none of those asked for."
        )
    if len(folds) > 1:
        said.append(_over_folds(methods, plan.metric.mode, len(folds)))
    student = methods["student"]
    bare = [row["method"] for name, row in methods.items() if name != "lower_bound"]
    if student["tnet"] != "none" and "supervised" not in bare:
        said.append("The student has a T-Net; --against supervised tells how much of the gain is the T-Net's.")
    said.append("A teacher is trained once a fold; its own training chance is in no interval.")
    fewer = [f"{many} of {name}" for name, many in finalists.items() if many < top]
    if fewer:
        said.append(
            f"Validation was to choose among the best {top} trials; fewer different ones are complete: "
            f"{', '.join(fewer)}."
        )
    for name, (complete, ended) in searched.items():
        if complete < FEW and complete < ended and name in methods:
            said.append(
                f"{name} is judged by {complete} complete trial{'' if complete == 1 else 's'} of {ended} (the others "
                "were stopped early or failed): its row may tell more of that configuration than of the method."
            )
    for name in same:
        said.append(f"{name} is no row of its own: its best trial is the student (trial {student['trial']}).")
    for name, row in methods.items():
        lost = len(row["pairs"]) - len(row["values"])
        if lost:
            said.append(f"{lost} of {len(row['pairs'])} trainings of {name} diverged and are left out.")
    if times > 1:
        said.append(f"The test split has been opened {times} times for this run: it is no longer unseen.")
    return said


def _place(fold: int | None) -> str:
    return "the split column" if fold is None else f"fold {fold}"


def _over_folds(methods: Mapping[str, Any], mode: str, folds: int) -> str:
    """The first comparison with one number a fold: seeds of a fold share its test subjects and its teacher."""
    means: dict[str, dict[int | None, list[float]]] = {"lower_bound": {}, "student": {}}
    for name, found_so_far in means.items():
        for (fold, _), value in by_place(methods[name]).items():
            found_so_far.setdefault(fold, []).append(value)
    both = [fold for fold in means["student"] if fold in means["lower_bound"]]

    def per_fold(name: str) -> list[float]:
        return [sum(means[name][fold]) / len(means[name][fold]) for fold in both]

    found = compare_pairs(per_fold("lower_bound"), per_fold("student"), mode) if both else None
    p = found["tests"]["wilcoxon"]["p"] if found else None
    told = f"p = {p:.2g}" if p is not None else "there is no test"
    return (
        f"Seeds of one fold share its test subjects and its teacher, so pairs are not independent. Over the means of "
        f"the {folds} folds alone: better in {found['wins'] if found else 0}, Wilcoxon {told} (the least that so many "
        f"folds can give is {2 / 2 ** len(both):.2g})."
    )
