"""From a student's folder and new samples or a recording to answers.

Needs no run, no dataset, no Ray, no Optuna and no POT.
"""

from pkdray.predict.files import FEATURES, predict_file, predict_recording_file
from pkdray.predict.student import LoadedStudent, load_student

__all__ = ["FEATURES", "LoadedStudent", "load_student", "predict_file", "predict_recording_file"]
