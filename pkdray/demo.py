"""The main job on bundled real data, from teachers to predictions."""

from __future__ import annotations

import time
from pathlib import Path

from pkdray import steps
from pkdray.console import Console, duration
from pkdray.errors import RunError

SPACE = "mfeat_demo"


def run_demo(folder: Path, console: Console, *, seeds: int, verbose: bool) -> None:
    """The pipeline and a prediction on the demo's study; what was made before in ``folder`` is continued.

    Args:
        folder: holds ``runs/``, ``student/`` and ``answers.csv`` afterwards.
        console: where it is shown.
        seeds: trainings a method at the evaluation.
        verbose: show Ray's logs.

    Raises:
        RunError: ``folder`` holds a finished demo.
        InterruptedWorkError: Ctrl-C; the same command continues.
    """
    started = time.monotonic()
    from pkdray.evaluate import Request
    from pkdray.predict import predict_file

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
    run = steps.begun(runs / "demo", plan, console)
    evaluation, _ = steps.carried_through(run, plan, dataset, Request(seeds), student, console, verbose=verbose)
    features = dataset.path / "features" / f"{plan.prevalent[0]}.parquet"
    predict_file(student, features, answers)
    console.say(f"Its answers to {features.name} are in {answers}.")
    steps.show_evaluation(evaluation, console)
    console.result(
        {"run": str(run.path), "student": str(student), "answers": str(answers), "evaluation": evaluation},
        f"Done in {duration(time.monotonic() - started)}.",
        *steps.next_steps(
            f"pkdray show demo --runs-dir {runs}          # the best trials, and who taught them",
            f"less {student}/README.md                     # the student's model card",
            "pkdray data import features --help            # your own features",
            "pkdray sweep mfeat_pkdot --trials 12          # another search; edit a copy of search_spaces/",
        ),
    )
