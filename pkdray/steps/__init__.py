"""The steps behind the command line: each does one thing, shows it, and says what to type next.

Imports stand inside the steps, so that a step brings in what it needs and nothing else: `predict` runs without Ray.
"""

from pkdray.steps.checking import doctor
from pkdray.steps.comparing import compare
from pkdray.steps.evaluating import evaluate, show_evaluation
from pkdray.steps.fetching import fetch
from pkdray.steps.importing import import_features, import_recordings, inspect, list_datasets
from pkdray.steps.jobs import job_logs, job_status, list_jobs, stop_job, submit
from pkdray.steps.pipeline import begun, carried_through, pipeline
from pkdray.steps.reporting import report
from pkdray.steps.runs import list_runs, show
from pkdray.steps.searching import resume, sweep, swept
from pkdray.steps.students import export, predict
from pkdray.steps.studies import embed, load_study, profile, taught, teach
from pkdray.steps.watching import dashboard, watch
from pkdray.steps.wording import next_steps

__all__ = [
    "begun",
    "carried_through",
    "compare",
    "dashboard",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "fetch",
    "import_features",
    "import_recordings",
    "inspect",
    "job_logs",
    "job_status",
    "list_datasets",
    "list_jobs",
    "list_runs",
    "load_study",
    "next_steps",
    "pipeline",
    "predict",
    "profile",
    "report",
    "resume",
    "show",
    "show_evaluation",
    "stop_job",
    "submit",
    "sweep",
    "swept",
    "taught",
    "teach",
    "watch",
]
