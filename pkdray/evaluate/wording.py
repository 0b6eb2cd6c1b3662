"""What an evaluation says in plain words: a sentence a comparison, and what a reader must bear in mind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pkdray.data.dataset import Dataset
from pkdray.evaluate.rows import by_place
from pkdray.evaluate.statistics import MOST_PAIRS, compare_pairs, contradicts, fewest_pairs
from pkdray.training.plan import Plan


def sentence(comparison: Mapping[str, Any], methods: Mapping[str, Any], metric: str, *, folds: int) -> str:
    """One comparison: helped, did not help, or not enough evidence and how many more seeds would settle it.

    Example:
        >>> from pkdray.evaluate.statistics import compare_pairs
        >>> said = compare_pairs([0.70, 0.72, 0.71, 0.69, 0.70, 0.73], [0.76, 0.77, 0.78, 0.74, 0.77, 0.76], "max")
        >>> about = {"student": {"method": "pkd"}, "lower_bound": {"label": "lower bound"}}
        >>> sentence({"method": "student", "against": "lower_bound", **said}, about, "accuracy", folds=1)[:73]
        'Distillation helped: +0.0550 accuracy over the lower bound (95 % +0.0400 '
    """
    difference, interval = comparison["difference"], comparison["interval"]
    gain = f"{difference:+.4f} {metric} over {_named(comparison['against'])}"
    test = comparison["tests"]["wilcoxon"]
    details = []
    if interval:
        details.append(f"95 % {interval[0]:+.4f} to {interval[1]:+.4f}")
    ties = f", equal in {comparison['ties']}" if comparison["ties"] else ""
    details.append(f"better in {comparison['wins']} of {comparison['pairs']} pairs{ties}")
    if test["p_holm"] is not None:
        corrected = " with Holm's correction" if test["p_holm"] != test["p"] else ""
        details.append(f"Wilcoxon p = {test['p_holm']:.2g}{corrected}")
    if comparison["effect_size"] is not None:
        details.append(f"d = {comparison['effect_size']:.1f}")
    return f"{_verdict(comparison, methods)}: {gain} ({', '.join(details)}).{_more(comparison, folds)}"


def _verdict(comparison: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    verdict, method = comparison["verdict"], comparison["method"]
    if verdict == "not enough evidence":
        return "Not enough evidence" if method == "student" else f"Not enough evidence for {method}"
    if comparison["against"] != "lower_bound":
        return f"{method.capitalize()} is {'better' if verdict == 'helped' else 'worse'}"
    what = "Distillation" if methods[method]["method"] != "supervised" else "The T-Net"
    outcome = "helped" if verdict == "helped" else "did not help, it hurt"
    return what + ("" if method == "student" else f" with {method}") + f" {outcome}"


def _named(method: str) -> str:
    return "the lower bound" if method == "lower_bound" else method


def _more(comparison: Mapping[str, Any], folds: int) -> str:
    """What would settle it."""
    if comparison["verdict"] != "not enough evidence":
        return ""
    if contradicts(comparison):
        return " Most pairs and the mean point in opposite directions: look at the single trainings."
    if comparison["effect_size"] is None:
        least = math.ceil(fewest_pairs() / folds)
        return (
            f" There is no test of so few or equal pairs: {least} seeds are the least." if comparison["pairs"] else ""
        )
    more = comparison["seeds_needed"]
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
    student: int | None,
) -> list[str]:
    """What a reader of the numbers must bear in mind."""
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
    else:
        searched = "the split column" if own is None else f"fold {own}"
        said.append(
            f"The configuration was searched on {searched}. Subjects who are tested in other folds took part in that "
            "choice, so these folds flatter it a little."
        )
        said.append(_over_folds(methods, plan.metric.mode, len(folds)))
    bare = [row["method"] for name, row in methods.items() if name != "lower_bound"]
    if "T-Net" in methods["student"]["what"] and "supervised" not in bare:
        said.append("The student has a T-Net; --against supervised tells how much of the gain is the T-Net's.")
    said.append("A teacher is trained once a fold; its own training chance is in no interval.")
    for name in same:
        said.append(f"{name} is no row of its own: its best trial is the student (trial {student}).")
    for name, row in methods.items():
        lost = len(row["pairs"]) - len(row["values"])
        if lost:
            said.append(f"{lost} of {len(row['pairs'])} trainings of {name} diverged and are left out.")
    if times > 1:
        said.append(f"The test split has been opened {times} times for this run: it is no longer unseen.")
    return said


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
