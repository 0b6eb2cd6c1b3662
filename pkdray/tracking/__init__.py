"""Trackers: TensorBoard, MLflow and Weights & Biases, told of every epoch and end of a trial where a study asks so."""

from pkdray.tracking.checking import check_tracking
from pkdray.tracking.trackers import Study, Tracker, Trackers, numbers, open_trackers

__all__ = ["Study", "Tracker", "Trackers", "check_tracking", "numbers", "open_trackers"]
