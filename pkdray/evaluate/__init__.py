"""Honest evaluation: the best student over seeds and folds beside its bounds, on a test split that is opened once."""

from pkdray.evaluate.again import as_then
from pkdray.evaluate.cures import until_complete
from pkdray.evaluate.evaluation import (
    FORMAT,
    Request,
    against_bound,
    evaluate_run,
    evaluation_of,
    read_evaluation,
    student_trial,
)
from pkdray.evaluate.opening import EVALUATION, openings
from pkdray.evaluate.overtaken import overtaken

__all__ = [
    "EVALUATION",
    "FORMAT",
    "Request",
    "against_bound",
    "as_then",
    "evaluate_run",
    "evaluation_of",
    "openings",
    "overtaken",
    "read_evaluation",
    "student_trial",
    "until_complete",
]
