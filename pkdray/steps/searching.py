"""The sweep, and going on with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pkdray.console import Console, progress_line
from pkdray.errors import (
    InterruptedSweepError,
)
from pkdray.interrupts import noticed
from pkdray.steps.runs import show
from pkdray.steps.studies import OnTeachers, load_study, placed, taught
from pkdray.steps.wording import command_line, short_path

if TYPE_CHECKING:
    from pkdray.data.dataset import Dataset
    from pkdray.search.run import Run
    from pkdray.search.sweep import Progress
    from pkdray.training.plan import Plan
    from pkdray.training.pools import Pool


def sweep(
    space: str,
    runs_dir: Path,
    assignments: Sequence[str],
    console: Console,
    *,
    name: str | None,
    trials: int | None,
    address: str | None,
    verbose: bool,
) -> Run:
    """Teachers, where they are missing, then a new run."""
    extra = [f"search.trials={trials}"] if trials is not None else []
    dataset, plan = load_study(space, [*assignments, *extra])
    from pkdray.cluster import connected
    from pkdray.search.run import Run, new_run_path
    from pkdray.tracking import check_tracking

    check_tracking(plan.config.tracking)
    path = runs_dir / name if name else new_run_path(runs_dir, plan.config.name)
    if not name and path.name != plan.config.name:
        console.say(
            f"A run {plan.config.name} exists; this one is {path.name}. To continue that one: "
            f"pkdray resume {short_path(runs_dir / plan.config.name)}"
        )
    Run.check_free(path, plan)
    with connected(address, verbose=verbose):
        plan = placed(plan, dataset, runs_dir, address, console)
        run = Run.create(path, plan, command_line())
        with run.lock(), _resumable(run) as check:
            with teaching(run, plan) as on_teachers:
                pool = taught(plan, dataset, runs_dir, console, on_teachers)
                check()
            swept(run, plan, dataset, pool, console)
    show(str(run.path), runs_dir, console)
    return run


def resume(
    name: str,
    runs_dir: Path,
    console: Console,
    *,
    trials: int | None,
    retry_failed: bool,
    address: str | None,
    verbose: bool,
) -> None:
    """Run what a run's ledger lacks."""
    from pkdray.cluster import connected
    from pkdray.search.adopting import take_up
    from pkdray.search.run import find_run
    from pkdray.tracking import check_tracking

    run = find_run(name, runs_dir)
    check_tracking(run.config.tracking)
    with run.lock():
        dataset = run.dataset()
        plan = run.plan(dataset)
        ledger = run.ledger()
        # First: a retry whose result is found is not to be planned once more.
        take_up(run.path, ledger)
        if trials is not None:
            ledger.extend(trials)
        retried = ledger.retry_failed() if retry_failed else 0
        counts = ledger.counts()
        retries = f", {retried} failed trials retried" if retried else ""
        console.say(
            f"{run.name}: {counts.finished} of {counts.planned} trials are finished, {counts.open} to go{retries}."
        )
        if counts.open:
            with _resumable(run) as check, connected(address, verbose=verbose):
                plan = placed(plan, dataset, run.runs_dir, address, console)
                with teaching(run, plan) as on_teachers:
                    pool = taught(plan, dataset, run.runs_dir, console, on_teachers)
                    check()
                swept(run, plan, dataset, pool, console)
        else:
            from pkdray.search.sweep import sweep as run_sweep

            # Nothing to run: what stands beside the ledger is written again.
            run_sweep(run, plan, dataset, run.pool(plan))
    show(str(run.path), runs_dir, console)


@contextmanager
def teaching(run: Run, plan: Plan) -> Iterator[OnTeachers]:
    """Keep live.json fresh while teachers are trained, which only waits; yields whom to tell of them."""
    from pkdray.search.live import INTERRUPTED, TEACHING, LiveFile, LiveState, beating

    state = LiveState(run.name, metric=plan.metric.name, mode=plan.metric.mode, epochs=plan.config.training.epochs)
    state.stand(run.ledger().counts(), None)
    file, teachers = LiveFile(run.path), {"trained": dict[str, float](), "training": list[str]()}

    def on_teachers(trained: Mapping[str, float], training: Sequence[str]) -> None:
        teachers.update(trained=dict(trained), training=list(training))

    try:
        with beating(lambda: file.write({**state.snapshot(TEACHING), "teachers": teachers})):
            yield on_teachers
    except BaseException:
        file.write(state.snapshot(INTERRUPTED))
        raise


@contextmanager
def _resumable(run: Run) -> Iterator[Callable[[], None]]:
    """Say how to go on where Ctrl-C came outside of the trials: while Ray started, or teachers were trained.

    Yields the check of `interrupts.noticed`.
    """
    try:
        with noticed() as check:
            yield check
    except KeyboardInterrupt as error:
        raise InterruptedSweepError(
            f"Interrupted; {run.name} keeps what is finished.",
            cure=f"Continue it with: pkdray resume {short_path(run.path)}",
        ) from error


def swept(run: Run, plan: Plan, dataset: Dataset, pool: Pool, console: Console) -> Progress:
    """Run the trials, showing where they stand.

    Raises:
        InterruptedSweepError: Ctrl-C stopped it; says how to go on.
    """
    from pkdray.search.sweep import sweep as run_sweep

    with console.progress(f"Sweep {run.name}: starting ...") as meter, noticed() as check:
        progress = run_sweep(run, plan, dataset, pool, meter.sweep)
        check()
    console.say(f"Sweep {run.name}: {progress_line(progress)}")
    if progress.counts.open:
        raise InterruptedSweepError(
            f"The sweep stopped with {progress.counts.open} of {progress.counts.planned} trials to go; "
            "nothing is lost.",
            cure=f"Continue it with: pkdray resume {short_path(run.path)}",
        )
    return progress
