"""The rows of an evaluation: a method's trainings and scores, the teacher's, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pkdray.data.dataset import Dataset
from pkdray.errors import RunError
from pkdray.evaluate.candidates import Candidate, Contender
from pkdray.evaluate.statistics import compare_pairs, correct_for_several, describe, more_seeds
from pkdray.evaluate.trainings import finite
from pkdray.training.inputs import labelled_rows
from pkdray.training.metrics import evaluate as evaluate_metrics
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool


def method_row(label: str, one: Candidate, plan: Plan, pairs: list[dict[str, Any]], row: Contender) -> dict[str, Any]:
    """What is told of a method that was trained; a training without a score is no part of its numbers.

    Raises:
        RunError: none has a score.
    """
    name = plan.metric.name
    pairs = [{**pair, "score": (pair["test"] or {}).get(name)} for pair in pairs]
    scored = [pair for pair in pairs if pair["score"] is not None]
    if not scored:
        why = pairs[0].get("failed", "its test predictions are not finite")
        raise RunError(
            f"No training of {label} gave a score on the test split: {why}",
            cure="Lower training.learning_rate in the study, or set training.gradient_clip.",
        )
    values = [pair["score"] for pair in scored]
    config = plan.trial_config(dict(one.overrides))
    return {
        "label": label,
        "what": one.what,
        "method": config.method.name,
        "tnet": config.student.tnet.training,
        "trial": one.trial,
        "configuration": dict(one.overrides),
        "tuned": len(row.candidates) if row.tuned else 0,
        "pairs": pairs,
        "values": values,
        "validation": [pair["validation"][name] for pair in scored],
        **describe(values),
    }


def teacher_row(dataset: Dataset, taught: Mapping[int | None, tuple[Plan, Pool]]) -> dict[str, Any]:
    """The first teacher of each fold's plan and finished pool; it is trained once a fold."""
    pairs: list[dict[str, Any]] = []
    for fold, (plan, pool) in taught.items():
        pair: dict[str, Any] = {"fold": fold, "seed": None}
        for name, split in (("validation", "val"), ("test", "test")):
            rows = dataset.rows(split, fold)
            ids = dataset.samples["sample_id"].iloc[rows].tolist()
            said = pool.load_embeddings(plan, ids)[plan.first_teacher]
            target, labelled = labelled_rows(plan.info, torch.as_tensor(dataset.targets()[rows]))
            pair[name] = finite(evaluate_metrics(labelled(torch.as_tensor(said.prediction), 1), target, plan.info.task))
        pairs.append(pair)
    metric = plan.metric.name
    pairs = [{**pair, "score": pair["test"][metric]} for pair in pairs]
    scored = [pair for pair in pairs if pair["score"] is not None]
    values = [pair["score"] for pair in scored]
    return {
        "label": "upper bound",
        "what": f"teacher {plan.first_teacher} on {', '.join(plan.pool[plan.first_teacher].modalities)}",
        "method": None,
        "tnet": None,
        "trial": None,
        "configuration": {},
        "tuned": 0,
        "pairs": pairs,
        "values": values,
        "validation": [pair["validation"][metric] for pair in scored],
        **describe(values),
    }


def compare_all(about: Mapping[str, Any], *, against: Sequence[str], mode: str, folds: int) -> list[dict[str, Any]]:
    """Student and methods against the bound, and the student against the methods; Holm's correction is over all.

    ``more_seeds`` is how many more of them would settle a comparison: see `statistics.more_seeds`.
    """
    asked = [("student", "lower_bound")]
    asked += [(name, "lower_bound") for name in against] + [("student", name) for name in against]
    scores = {key: by_place(row) for key, row in about.items()}
    found = []
    for method, other in asked:
        both = [place for place in scores[method] if place in scores[other]]
        if both:
            reference, own = ([scores[key][place] for place in both] for key in (other, method))
            found.append({"method": method, "against": other, **compare_pairs(reference, own, mode)})
    return [{**one, "more_seeds": more_seeds(one, folds)} for one in correct_for_several(found)]


def by_place(row: Mapping[str, Any]) -> dict[tuple[int | None, int | None], float]:
    """A method's test scores by fold and seed."""
    return {(pair["fold"], pair["seed"]): pair["score"] for pair in row["pairs"] if pair["score"] is not None}
