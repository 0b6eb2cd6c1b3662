"""The sweep: Ray Tune runs what the ledger lacks. A resume is the same call."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.embeddings import SharedArrays
from pkdray.errors import PkdrayError, StorageError
from pkdray.files import remove_folder, write_text
from pkdray.resources import Resources
from pkdray.search.adopting import take_up, write_proposal
from pkdray.search.ledger import Ledger
from pkdray.search.monitor import Monitor, OnProgress, Progress
from pkdray.search.results import write_results
from pkdray.search.room import Room
from pkdray.search.run import Run
from pkdray.search.trial import TrialReport, run_trial
from pkdray.training.distributed import Team, release_all, run_on_workers
from pkdray.training.inputs import SEARCH_SPLITS, split_arrays, with_embeddings
from pkdray.training.loop import Report
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.workers import freeze

logger = logging.getLogger(__name__)
TRAIN = ".train"
"""Where Ray Train keeps its own records while trials train on several workers."""
_WAITING = {"memory": 1 << 26}
"""What a trial takes that only waits for its workers: CPUs that it held, they could not have."""


def sweep(run: Run, plan: Plan, dataset: Dataset, pool: Pool, on_progress: OnProgress | None = None) -> Progress:
    """Run the trials that the ledger lacks; returns where the sweep then stands.

    Needs a connected Ray and the run's lock. Interrupted by Ctrl-C it returns with open trials, every one of them
    WAITING in the ledger; killed, it leaves rows RUNNING, which the next call puts back.

    Raises:
        PkdrayError: the pool is damaged, a folder cannot be written.
    """
    ledger = run.ledger()
    take_up(run.path, ledger)
    monitor = Monitor(run, plan, ledger, on_progress)
    try:
        _sweep(run, plan, dataset, pool, ledger, monitor)
    finally:
        progress = monitor.close()
    return progress


def _sweep(run: Run, plan: Plan, dataset: Dataset, pool: Pool, ledger: Ledger, monitor: Monitor) -> None:
    if ledger.counts().open:
        resources, student = plan.resources, plan.config.student
        cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
        with monitor.waiting():
            freeze(plan, dataset, student, plan.prevalent, pool.frozen.resolve(), cpus=cpus, gpus=gpus)
            shared = SharedArrays.put(study_arrays(plan, dataset, pool), partial(study_arrays_on_disk, plan, pool))
        try:
            _fit(run, plan, pool, ledger, shared, monitor)
        finally:
            ledger.release()
        shared.verify()
    write_results(run, plan, dataset, ledger)


def study_arrays(plan: Plan, dataset: Dataset, pool: Pool) -> dict[str, dict[str, Any]]:
    """What every trial reads: inputs, targets and teachers' embeddings of train and validation."""
    arrays = split_arrays(plan, dataset, plan.prevalent)
    embeddings = {}
    for split in SEARCH_SPLITS:
        rows = dataset.rows(split, plan.config.dataset.fold)
        embeddings[split] = pool.load_embeddings(plan, dataset.samples["sample_id"].iloc[rows].tolist())
    return with_embeddings(arrays, embeddings, plan.first_teacher)


def study_arrays_on_disk(plan: Plan, pool: Pool) -> dict[str, dict[str, Any]]:
    """The same, of a process that has no dataset open."""
    pool.fetch()
    return study_arrays(plan, open_dataset(plan.dataset_path, verify=False), pool)


def _fit(run: Run, plan: Plan, pool: Pool, ledger: Ledger, shared: SharedArrays, monitor: Monitor) -> None:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Processes start side by side, not one after another; how many there may be, the searcher knows.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "16")
    from ray import tune

    from pkdray.search.tune import LedgerASHA, LedgerSearcher, SweepCallback, make_scheduler

    resources = plan.resources
    alone = resources.workers_per_trial == 1
    searcher = LedgerSearcher(ledger, plan.config, plan.metric, _limit(plan.resources))
    scheduler = make_scheduler(plan.config, mode=plan.metric.mode, trials=ledger.trials())
    monitor.begin(scheduler.reached if isinstance(scheduler, LedgerASHA) else None)
    # Tune's own records are of no use to us: the ledger has the state, the trials' folders have the files.
    # Named like `cluster.connected` names its folders, so that what a killed sweep leaves is removed by the next.
    records = tempfile.mkdtemp(prefix=f"pkdray-{os.getpid()}-tune-", dir="/tmp")
    trainable = tune.with_resources(
        tune.with_parameters(
            _tune_trial,
            shared=shared,
            plan=plan,
            run_path=run.path.resolve(),
            tnets=pool.tnets.resolve(),
            frozen=pool.frozen.resolve(),
        ),
        {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial} if alone else _WAITING,
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=ledger.counts().open,
            search_alg=searcher,
            scheduler=scheduler,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="records",
            storage_path=records,
            callbacks=[SweepCallback(monitor, scheduler)],
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
            verbose=0,
        ),
    )
    before = signal.getsignal(signal.SIGINT)
    try:
        tuner.fit()
        if searcher.halted is not None:
            raise StorageError(searcher.halted, cure=f"Then continue with: pkdray resume {mirrors.typed(run.path)}")
    finally:
        if threading.current_thread() is threading.main_thread():
            # Tune leaves its own handler behind, which drops the next Ctrl-C.
            signal.signal(signal.SIGINT, before)
        remove_folder(Path(records))
        release_all(run.path.resolve() / TRAIN)


def _limit(resources: Resources) -> Callable[[], int]:
    """How many trials may be started and not ended."""
    room = Room(resources)
    # One in reserve, whose place is ready when another ends; one that only waits for its workers would take a process.
    reserve = int(resources.workers_per_trial == 1 and resources.concurrent_trials is None)
    return lambda: room() + reserve


_ARRAYS: dict[str, Any] = {}
"""This process's mapped arrays: actors are reused between trials, and so is the mapping."""


def _tune_trial(
    config: dict[str, Any], *, shared: SharedArrays, plan: Plan, run_path: Path, tnets: Path, frozen: Path
) -> None:
    """What Tune runs: one trial of the ledger, in an actor that has often run others before."""
    import torch
    from ray import tune

    from pkdray.search.reports import ENTRY, EPOCH, FAILED, HALT, SUMMARY, VALUE, outcome

    torch.set_num_threads(max(1, int(plan.resources.cpus_per_trial)))
    folder = run_path / "trials" / str(config["number"])

    def report(entry: dict[str, Any]) -> None:
        tune.report(
            {EPOCH: int(entry["epoch"]), VALUE: entry["best"], SUMMARY: "", FAILED: "", ENTRY: json.dumps(entry)}
        )

    worst = float("-inf") if plan.metric.mode == "max" else float("inf")
    try:
        write_proposal(folder, json.loads(config["proposal"]))
        summary = _train(plan, json.loads(config["overrides"]), shared, folder, tnets, frozen, report)
    except StorageError as error:
        # Every trial would fail the same way: keep them for a resume instead.
        tune.report({EPOCH: 0, VALUE: worst, SUMMARY: "", FAILED: "", HALT: str(error)})
    except PkdrayError as error:
        tune.report({EPOCH: 0, VALUE: worst, SUMMARY: "", FAILED: str(error.what)})
    except Exception as error:
        # The edge of a trial: whatever its code raises is this trial's failure, and the sweep goes on.
        logger.exception("trial %s failed", config["number"])
        with contextlib.suppress(PkdrayError, OSError):
            write_text(folder / "error.txt", traceback.format_exc())
            mirrors.push_file(folder / "error.txt")
        tune.report({EPOCH: 0, VALUE: worst, SUMMARY: "", FAILED: f"{type(error).__name__}: {error}"})
    else:
        tune.report(outcome(summary))


def _train(
    plan: Plan,
    overrides: dict[str, Any],
    shared: SharedArrays,
    folder: Path,
    tnets: Path,
    frozen: Path,
    report: TrialReport,
) -> dict[str, Any]:
    """The trial, in this process or by its own workers."""
    resources = plan.resources
    if resources.workers_per_trial == 1:
        if "arrays" not in _ARRAYS:
            _ARRAYS["arrays"] = shared.get()
        device = "cuda" if resources.gpus_per_trial else "cpu"
        return run_trial(
            plan, overrides, _ARRAYS["arrays"], folder, tnets=tnets, frozen=frozen, report=report, device=device
        )
    settings = {
        "plan": plan,
        "overrides": overrides,
        "shared": shared,
        "folder": folder,
        "tnets": tnets,
        "frozen": frozen,
    }
    summary: dict[str, Any] = run_on_workers(
        _train_worker, settings, team_of(plan), folder.parent.parent / TRAIN, folder.name, report
    )
    return summary


def _train_worker(settings: dict[str, Any], workers: Workers, device: str, report: Report) -> dict[str, Any]:
    """What every worker of a trial runs."""
    return run_trial(
        settings["plan"],
        settings["overrides"],
        settings["shared"].get(),
        settings["folder"],
        tnets=settings["tnets"],
        frozen=settings["frozen"],
        report=report,
        device=device,
        workers=workers,
    )


def team_of(plan: Plan) -> Team:
    """The workers that train a student."""
    resources = plan.resources
    return Team(resources.workers_per_trial, resources.cpus_per_trial, resources.gpus_per_trial, resources.max_failures)
