"""The whole way in one command: teachers, trials, evaluation, report, student. Typed again, it goes on where it was."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdray import mirrors
from pkdray.console import Console
from pkdray.errors import CheckpointError, InterruptedWorkError, RunError
from pkdray.interrupts import noticed
from pkdray.steps.evaluating import folds_of, show_evaluation
from pkdray.steps.searching import swept, teaching
from pkdray.steps.studies import finished_pool, load_study, placed
from pkdray.steps.wording import command_line, next_steps, short_path

if TYPE_CHECKING:
    from pkdray.config import Config
    from pkdray.data.dataset import Dataset
    from pkdray.evaluate import Request
    from pkdray.search.run import Run
    from pkdray.training.plan import Plan
    from pkdray.training.pools import Pool

STEPS = 5
STUDENT = "student"
"""The folder in a run that the student goes to where no other is named."""
_FREE = ("name", "dataset.path", "search.trials", "resources.", "tracking.")
"""What may differ when a run is continued: where it runs and how many trials there are is no part of a study."""


def pipeline(
    space: str,
    runs_dir: Path,
    assignments: Sequence[str],
    console: Console,
    *,
    name: str,
    trials: int | None,
    seeds: int,
    folds: str | None,
    top: int,
    against: Sequence[str],
    output: Path | None,
    address: str | None,
    verbose: bool,
) -> None:
    """From a dataset to an evaluated, reported and exported student.

    Raises:
        RunError: the run of that name was made from another study.
        InterruptedWorkError: Ctrl-C stopped it; says how to go on.
    """
    extra = [f"search.trials={trials}"] if trials is not None else []
    dataset, plan = load_study(space, [*assignments, *extra])
    from pkdray.evaluate import Request
    from pkdray.tracking import check_tracking

    check_tracking(plan.config.tracking)
    methods = tuple(one.strip() for several in against for one in several.split(","))
    request = Request(seeds, folds_of(folds, dataset), top, methods)
    run = begun(runs_dir / name, plan, console)
    student = output or run.path / STUDENT
    evaluation, report = carried_through(run, plan, dataset, request, student, console, address, verbose=verbose)
    show_evaluation(evaluation, console)
    console.result(
        {
            "run": mirrors.shown(run.path),
            "student": mirrors.shown(student),
            "report": mirrors.shown(report),
            "evaluation": evaluation,
        },
        *next_steps(
            f"open {short_path(report)} in a browser"
            if mirrors.uri_of(report) is None
            else f"pkdray fetch {short_path(run.path)} -o {shlex.quote(run.name)}    # report.html and all the rest",
            f"pkdray predict {short_path(student)} INPUT.csv -o answers.csv",
        ),
    )


def begun(path: Path, plan: Plan, console: Console) -> Run:
    """The run at ``path``, made now if there is none; more trials than were planned are planned now.

    Raises:
        RunError: it was made from another study, or more trials are asked for after the test split was opened.
        FingerprintError: it was made with another dataset.
    """
    from pkdray.evaluate import openings
    from pkdray.search.folders import fetch_run
    from pkdray.search.run import RUN_FILE, Run

    fetch_run(path)
    if not (path / RUN_FILE).exists():
        Run.check_free(path, plan)
        return Run.create(path, plan, command_line())
    run = Run(path)
    run.check_dataset(plan)
    differing = differences(run.config, plan.config)
    if differing:
        raise RunError(
            f"The run {path} was made from another study:",
            details=differing,
            cure="Choose another --name, or give the study and the --set that it was made from.",
        )
    wanted, planned = plan.config.search.trials, run.ledger().planned
    if wanted > planned and plan.config.search.sampler != "grid":
        if openings(run):
            raise RunError(
                f"{wanted} trials are asked for, but {run.name} has been evaluated with {planned}, and the test split "
                "is opened once.",
                cure=f"Ask for --trials {planned}, or choose another --name.",
            )
        with run.lock():
            # Read anew: until the run was ours another driver may have planned more, or brought its ledger.
            ledger = run.ledger()
            if wanted > ledger.planned:
                ledger.extend(wanted)
        console.say(f"{run.name}: {wanted} trials are planned now, {wanted - planned} more than before.")
    elif wanted < planned:
        console.say(f"{run.name}: {planned} trials are planned already, which stay.")
    return run


def differences(made: Config, asked: Config) -> list[str]:
    """What two studies say differently, field by field, as lines; what is free to differ is left out.

    Example:
        >>> from pkdray.config import load_config
        >>> from pkdray.shipped import find_yaml
        >>> first = load_config(find_yaml("mfeat_pkd"))
        >>> second = load_config(find_yaml("mfeat_pkd"), {"training.epochs": 9, "search.trials": 3})
        >>> differences(first, second)
        ['training.epochs: 60 in the run, 9 now']
    """
    from pkdray.search.space import flatten

    before, after = (flatten(config.model_dump(mode="json", by_alias=True)) for config in (made, asked))
    return [
        f"{path}: {before.get(path, 'nothing')} in the run, {after.get(path, 'nothing')} now"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path) and not path.startswith(_FREE)
    ]


def carried_through(
    run: Run,
    plan: Plan,
    dataset: Dataset,
    request: Request,
    student: Path,
    console: Console,
    address: str | None = None,
    *,
    verbose: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Teach, sweep, evaluate, report and export what of it is not done yet, over one connection to Ray.

    Args:
        run: the run.
        plan: its plan; resources may be others than those that the run was made with.
        dataset: its dataset.
        request: the evaluation that is asked for.
        student: the folder to export to.
        console: told of each step in a line.
        address: of a running cluster.
        verbose: show Ray's logs.

    Returns:
        The evaluation, and where the report is.

    Raises:
        InterruptedWorkError: Ctrl-C stopped it; says how to go on.
        RunError: the test split was opened for another request.
    """
    from pkdray.cluster import connected

    try:
        with noticed() as check:
            with run.lock(), connected(address, verbose=verbose):
                plan = placed(plan, dataset, run.runs_dir, address, console)
                pool = _searched(run, plan, dataset, console)
                check()
                evaluation, fresh = _evaluated(run, plan, dataset, pool, request, console)
                check()
            report = _reported(run, console, fresh=fresh)
            _exported(run, evaluation, student, console)
            check()
    except KeyboardInterrupt as error:
        raise InterruptedWorkError(
            f"Interrupted; {run.name} keeps what is finished.", cure="Go on with the same command."
        ) from error
    except InterruptedWorkError as error:
        raise InterruptedWorkError(error.what, cure="Go on with the same command.") from error
    return evaluation, report


def _say(console: Console, step: int, text: str) -> None:
    console.say(f"[{step}/{STEPS}] {text}")


def _searched(run: Run, plan: Plan, dataset: Dataset, console: Console) -> Pool:
    """Teachers, then the trials that the ledger lacks."""
    from pkdray.evaluate import read_evaluation
    from pkdray.search.adopting import take_up
    from pkdray.search.sweep import sweep

    ledger = run.ledger()
    take_up(run.path, ledger)
    counts = ledger.counts()
    with console.progress("Teachers ...") as meter:
        if counts.open:
            with teaching(run, plan) as on_teachers:
                pool, said = finished_pool(plan, dataset, run.runs_dir, meter.show, on_teachers)
        else:
            pool, said = finished_pool(plan, dataset, run.runs_dir, meter.show)
    _say(console, 1, said)
    if counts.open:
        _say(console, 2, f"Sweep: {counts.finished} of {counts.planned} trials are finished, {counts.open} to go.")
        swept(run, plan, dataset, pool, console)
        return pool
    if read_evaluation(run) is None:
        # Killed after its last trial, it may lack what stands beside the ledger.
        sweep(run, plan, dataset, pool)
    _say(console, 2, f"Sweep: all {counts.planned} trials are finished; kept.")
    return pool


def _evaluated(
    run: Run, plan: Plan, dataset: Dataset, pool: Pool, request: Request, console: Console
) -> tuple[dict[str, Any], bool]:
    """The evaluation, and whether it was made now."""
    from pkdray.evaluate import evaluate_run, read_evaluation

    def pool_of(fold: Plan) -> Pool:
        if fold.pool_fingerprint == plan.pool_fingerprint:
            return pool
        return finished_pool(fold, dataset, run.runs_dir, meter.show)[0]

    before = read_evaluation(run)
    what = f"Evaluation: {request.seeds} seed{'s' * (request.seeds != 1)} a method"
    with console.progress(f"{what} ...") as meter:
        evaluation = evaluate_run(
            run,
            plan,
            dataset,
            pool_of,
            request,
            lambda doing, done, total: meter.show(f"Evaluation: {doing}, {done}/{total}"),
        )
    fresh = evaluation != before
    opened = "the test split was opened." if fresh else "kept; the test split stays closed."
    _say(console, 3, f"{what}: {opened}")
    return evaluation, fresh


def _reported(run: Run, console: Console, *, fresh: bool) -> Path:
    from pkdray.evaluate.opening import EVALUATION
    from pkdray.report import REPORT, write_report

    path = run.path / REPORT
    if not fresh and path.exists() and path.stat().st_mtime >= (run.path / EVALUATION).stat().st_mtime:
        _say(console, 4, f"Report: {short_path(path)} is up to date; kept.")
        return path
    with console.progress("Report ...") as meter:
        write_report(run, path, meter.show)
        mirrors.push_file(path)
    _say(console, 4, f"Report: {short_path(path)}.")
    return path


def _exported(run: Run, evaluation: dict[str, Any], student: Path, console: Console) -> None:
    from pkdray.export import export_student

    mirrors.pull(student)
    if is_exported(run, evaluation, student):
        _say(console, 5, f"Student: {short_path(student)} is trial {evaluation['trial']} already; kept.")
        return
    with console.progress("Exporting the best student ..."):
        export_student(run, student, overwrite=True)
        mirrors.push(student, gone=True)
    _say(console, 5, f"Student: trial {evaluation['trial']} is exported to {short_path(student)}.")


def is_exported(run: Run, evaluation: dict[str, Any], student: Path) -> bool:
    """Whether ``student`` is whole, and the evaluated student of this run with its test scores."""
    from pkdray.files import checksum
    from pkdray.training.bundles import MODEL, read_bundle

    try:
        info, _, metrics = read_bundle(student)
    except CheckpointError:
        return False
    made = info.made_from
    mine = {"run": run.name, "trial": evaluation["trial"], "dataset_fingerprint": run.about["dataset_fingerprint"]}
    return (
        {key: made.get(key) for key in mine} == mine
        and metrics.get("test") == evaluation["student"]["test"]
        and (run.best / MODEL).exists()
        and info.checksums[MODEL] == checksum(run.best / MODEL)
    )
