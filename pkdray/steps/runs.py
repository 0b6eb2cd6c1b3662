"""What runs there are, and how one stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pkdray import mirrors
from pkdray.console import Console
from pkdray.errors import RunError
from pkdray.steps.evaluating import verdict
from pkdray.steps.wording import next_steps, short_path

if TYPE_CHECKING:
    from pkdray.search.ledger import Ledger
    from pkdray.search.run import Run

T = TypeVar("T")


def list_runs(runs_dir: Path, console: Console) -> None:
    """The runs in a folder."""
    from pkdray.search.run import list_runs as find_all

    rows = []
    for run in find_all(runs_dir):
        try:
            about = standing(run)
        except RunError:
            # One damaged ledger must not hide the other runs.
            about = {"state": "damaged", "dataset": run.about.get("dataset")}
        rows.append(
            {
                "run": run.name,
                **{key: about.get(key) for key in ("state", "dataset", "finished", "planned", "metric", "best")},
            }
        )
    if console.as_json:
        console.result(rows)
    elif rows:
        console.table(f"Runs in {mirrors.shown(runs_dir)}", list(rows[0]), [list(row.values()) for row in rows])
    else:
        console.result(None, f"No runs are in {mirrors.shown(runs_dir)}.", *next_steps("pkdray sweep mfeat_demo"))


def show(name: str, runs_dir: Path, console: Console, *, top: int = 5) -> None:
    """Everything worth knowing of a run."""
    from pkdray.evaluate import as_then, evaluation_of, overtaken
    from pkdray.search.results import trial_overrides
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    ledger = run.ledger()
    about = standing(run, ledger)
    complete = [trial for trial in ledger.trials() if trial.state.name == "COMPLETE"]
    sign = -1 if about["mode"] == "max" else 1
    ranked = sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))[:top]
    from pkdray.search.ledger import reason, retry_of, summary

    about["trials"] = [
        {
            "number": trial.number,
            "value": trial.value,
            **{key: summary(trial).get(key) for key in ("method", "epoch", "epochs", "seconds", "teachers")},
            "proposed": trial_overrides(run, ledger, trial.number),
        }
        for trial in ranked
    ]
    about["failures"] = {trial.number: reason(trial) for trial in ledger.trials() if trial.state.name == "FAIL"}
    about["retries"] = {retry_of(trial): trial.number for trial in ledger.trials() if retry_of(trial) is not None}
    found = _read_or_told(lambda: evaluation_of(run), console)
    about["evaluation"], about["evaluated_by_older"] = found or None, found == {}
    about["overtaken"] = overtaken(about["evaluation"], about["best_trial"])
    if console.as_json:
        console.result(about)
        return
    config = run.config
    console.result(
        None,
        f"Run {run.name} ({about['state']}): {about['finished']} of {about['planned']} trials finished "
        f"({about['complete']} complete, {about['pruned']} pruned, {about['failed']} failed)",
        f"  data      {about['dataset']}: {', '.join(config.dataset.prevalent)} prevalent; "
        f"{', '.join(config.dataset.privileged or [])} privileged",
        f"  teachers  {', '.join(teacher.name for teacher in config.teachers.pool)}"
        + (" and one adapter a modality" if config.teachers.adapters.enabled else ""),
        f"  search    {config.search.sampler} over {', '.join(config.search.space) or 'nothing'}",
        f"  folder    {short_path(run.path)}: run.yaml (config), study.db (ledger), trials.parquet, trials/, best/",
    )
    console.table(
        f"Best trials by validation {about['metric']}",
        ["trial", "value", "method", "best epoch", "taught by", "proposed"],
        [
            [
                trial["number"],
                trial["value"],
                trial["method"],
                f"{trial['epoch']}/{trial['epochs']}",
                _shares(trial["teachers"]),
                _proposal(trial["proposed"]),
            ]
            for trial in about["trials"]
        ],
    )
    for number, why in about["failures"].items():
        again = f" (repeated as trial {about['retries'][number]})" if number in about["retries"] else ""
        console.result(None, f"Trial {number} failed: {why}{again}")
    if about["overtaken"]:
        console.result(None, about["overtaken"], f"What it said of trial {about['evaluation']['trial']}:")
    if about["evaluation"]:
        console.result(None, verdict(about["evaluation"]))
    if about["evaluated_by_older"]:
        console.result(None, "An older pkdray evaluated it, whose numbers are not shown; evaluate it again.")
    here = short_path(run.path)
    if about["state"] == "interrupted":
        console.result(None, *next_steps(f"pkdray resume {here}"))
    elif about["state"] == "finished" and about["trials"]:
        steps = [f"pkdray resume {here} --retry-failed"] if about["failed"] and not about["evaluation"] else []
        if about["overtaken"] or not about["evaluation"]:
            steps.append(" ".join(["pkdray evaluate", here, *(_read_or_told(lambda: as_then(run), console) or [])]))
        console.result(None, *next_steps(*steps, f"pkdray export {here} -o student"))


def _read_or_told(reading: Callable[[], T], console: Console) -> T | None:
    """What is read, or None where that is damaged: what else there is to see is worth seeing."""
    try:
        return reading()
    except RunError as error:
        console.say(str(error))
        return None


def standing(run: Run, ledger: Ledger | None = None) -> dict[str, Any]:
    """How a run stands, as plain data; a ledger that is open already is not read again."""
    ledger = ledger or run.ledger()
    counts, best = ledger.counts(), ledger.best()
    finished = counts.finished >= counts.planned
    state = "running" if run.is_active() else "finished" if finished else "interrupted"
    metric = run.config.search.metric or ""
    from pkdray.training.metrics import METRICS

    return {
        "run": run.name,
        "path": mirrors.shown(run.path),
        "state": state,
        "dataset": run.about["dataset"],
        "dataset_fingerprint": run.about["dataset_fingerprint"],
        "pool_fingerprint": run.about["pool"],
        "created": run.about["created"],
        "planned": counts.planned,
        "finished": counts.finished,
        "complete": counts.complete,
        "pruned": counts.pruned,
        "failed": counts.failed,
        "metric": metric,
        "mode": METRICS[metric].mode,
        "best": best.value if best else None,
        "best_trial": best.number if best else None,
    }


def _shares(shares: Mapping[str, float] | None) -> str:
    return (
        ", ".join(f"{name} {share:.0%}" for name, share in (shares or {}).items() if share >= 0.005) or "labels alone"
    )


def _proposal(values: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        return (
            f"{value:.3g}" if isinstance(value, float) else "+".join(value) if isinstance(value, list) else str(value)
        )

    return ", ".join(
        f"{path.removeprefix('method.').removeprefix('training.')}={short(value)}"
        for path, value in values.items()
        if path != "method.name"
    )
