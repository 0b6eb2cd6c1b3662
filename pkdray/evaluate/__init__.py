"""Honest evaluation: the best student over seeds and folds beside its bounds, on a test split that is opened once."""

from pkdray.evaluate.evaluation import Request, evaluate_run, read_evaluation, student_trial
from pkdray.evaluate.opening import EVALUATION, openings
from pkdray.evaluate.overtaken import overtaken

__all__ = ["EVALUATION", "Request", "evaluate_run", "openings", "overtaken", "read_evaluation", "student_trial"]
