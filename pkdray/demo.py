"""The main job on bundled real data, from teachers to predictions."""

from __future__ import annotations

import time
from pathlib import Path

from pkdray import steps
from pkdray.console import Console, duration
from pkdray.errors import RunError

SPACE = "mfeat_demo"


def run_demo(folder: Path, console: Console, *, seeds: int, verbose: bool) -> None:
    """Teach, sweep over the methods, evaluate, export and predict; what was made before in ``folder`` is continued.

    Args:
        folder: holds ``runs/``, ``student/`` and ``answers.csv`` afterwards.
        console: where it is shown.
        seeds: trainings a method at the evaluation.
        verbose: show Ray's logs.

    Raises:
        RunError: ``folder`` holds a finished demo.
        InterruptedSweepError: Ctrl-C; the same command continues.
    """
    started = time.monotonic()
    from pkdray.cluster import connected
    from pkdray.evaluate import Request, evaluate_run
    from pkdray.export import export_student
    from pkdray.predict import predict_file
    from pkdray.search.run import RUN_FILE, Run

    runs, student, answers = folder / "runs", folder / "student", folder / "answers.csv"
    if answers.exists():
        raise RunError(
            f"{folder} holds a finished demo.",
            cure=f"Look at it with `pkdray show demo --runs-dir {runs}`, or choose another folder with --dir.",
        )
    dataset, plan = steps.load_study(SPACE, [])
    console.say(
        f"Data: {dataset.info.name}, {len(dataset)} digits seen through {len(dataset.info.modalities)} views. The "
        f"student will see {', '.join(plan.prevalent)} alone. 40 % of the training labels were "
        "replaced at random (simulated annotators); validation and test labels are clean."
    )
    run = Run(runs / "demo") if (runs / "demo" / RUN_FILE).exists() else Run.create(runs / "demo", plan)
    with run.lock(), connected(verbose=verbose):
        pool = steps.taught(plan, dataset, runs, console)
        steps.swept(run, plan, dataset, pool, console)
        with console.progress(f"Evaluation: {seeds} seeds of the student and of its lower bound ...") as meter:
            evaluation = evaluate_run(
                run,
                plan,
                dataset,
                lambda _: pool,
                Request(seeds),
                lambda what, done, total: meter.show(f"Evaluation: {what}, {done}/{total}"),
            )
    if not student.exists():
        with console.progress("Exporting the best student ..."):
            export_student(run, student)
    features = dataset.path / "features" / f"{plan.prevalent[0]}.parquet"
    predict_file(student, features, answers)
    console.say(f"Exported to {student}; its answers to {features.name} are in {answers}.")
    steps.show_evaluation(evaluation, console)
    console.result(
        {"run": str(run.path), "student": str(student), "answers": str(answers), "evaluation": evaluation},
        f"Done in {duration(time.monotonic() - started)}.",
        *steps.next_steps(
            f"pkdray show demo --runs-dir {runs}            # the best trials, and who taught them",
            f"less {student}/README.md                       # the student's model card",
            "pkdray data import features --help             # your own features",
            "pkdray sweep mfeat_pkdot --trials 12           # another search; edit a copy of search_spaces/",
        ),
    )
