"""The test split: opened once, and what it said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdray.console import Console
from pkdray.errors import ConfigError, InterruptedWorkError
from pkdray.interrupts import noticed
from pkdray.steps.studies import finished_pool, placed
from pkdray.steps.wording import next_steps, short_path

if TYPE_CHECKING:
    from pkdray.data.dataset import Dataset


def evaluate(
    name: str,
    runs_dir: Path,
    console: Console,
    *,
    seeds: int,
    folds: str | None,
    top: int,
    against: Sequence[str],
    reopen: bool,
    unfinished: bool,
    address: str | None,
    verbose: bool,
) -> None:
    """Open the test split.

    Raises:
        InterruptedWorkError: Ctrl-C stopped it; says how to go on.
    """
    from pkdray.cluster import connected
    from pkdray.evaluate import Request, evaluate_run
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    dataset = run.dataset()
    plan = run.plan(dataset)
    methods = tuple(one.strip() for several in against for one in several.split(","))
    request = Request(seeds, folds_of(folds, dataset), top, methods, reopen, unfinished)
    try:
        with noticed() as check, run.lock(), connected(address, verbose=verbose):
            plan = placed(plan, dataset, run.runs_dir, address, console)
            with console.progress(f"Evaluating {run.name} ...") as meter:
                evaluation = evaluate_run(
                    run,
                    plan,
                    dataset,
                    lambda of_fold: finished_pool(of_fold, dataset, run.runs_dir, meter.show)[0],
                    request,
                    lambda what, done, total: meter.show(f"Evaluating {run.name}: {what}, {done}/{total}"),
                )
            check()
    except KeyboardInterrupt as error:
        raise InterruptedWorkError(
            "Interrupted; what is trained is kept.", cure="Go on with the same command."
        ) from error
    show_evaluation(evaluation, console)
    here = short_path(run.path)
    console.result(evaluation, *next_steps(f"pkdray report {here}", f"pkdray export {here} -o student"))


def folds_of(asked: str | None, dataset: Dataset) -> list[int | None] | None:
    """``--folds``: all, or numbers with commas between; None leaves the choice to the run.

    Raises:
        ConfigError: it is neither, or the dataset has no folds.
    """
    if asked is None:
        return None
    if not dataset.folds:
        raise ConfigError(f"--folds is '{asked}', but {dataset.info.name} has no folds.", cure="Leave --folds out.")
    if asked == "all":
        return list(range(dataset.folds))
    try:
        return [int(one) for one in asked.split(",")]
    except ValueError as error:
        raise ConfigError(f"--folds is '{asked}'.", cure="Write all, or numbers such as 0,1,2.") from error


def show_evaluation(evaluation: Mapping[str, Any], console: Console) -> None:
    """The table of the student between its bounds, and what it means in words."""
    metric, seeds, folds = evaluation["metric"], len(evaluation["seeds"]), len(evaluation["folds"])
    over = f"{seeds} seed{'s' * (seeds != 1)}" + (f" x {folds} folds" if folds > 1 else "")
    console.table(
        f"Test {metric}, {over}",
        ["", "mean", "std", "95 % interval", "over the bound", ""],
        [
            [
                about["label"],
                about["mean"],
                about["std"],
                " to ".join(f"{end:.4f}" for end in about["interval"]) if about["interval"] else "-",
                *_gain(evaluation, key),
            ]
            for key, about in evaluation["methods"].items()
        ],
    )
    if console.as_json:
        return
    # Beside the numbers they would be broken into five lines each.
    for about in evaluation["methods"].values():
        console.result(None, f"{about['label']}: {about['what']}")
    console.result(None, "")
    for comparison in evaluation["comparisons"]:
        console.result(None, comparison["sentence"])
    console.result(None, "", *(f"Note: {note}" for note in evaluation["notes"]))


def verdict(evaluation: Mapping[str, Any]) -> str:
    """Did distillation help? In plain words."""
    from pkdray.evaluate import against_bound

    opened = evaluation["test_opened"]["times"]
    again = f" The test split has been opened {opened} times." if opened > 1 else ""
    found = against_bound(evaluation)
    if found is None:
        return f"The student and the lower bound share no training that ended: they are not compared.{again}"
    return f"{found['sentence']}{again}"


def _gain(evaluation: Mapping[str, Any], method: str) -> tuple[str, str]:
    """How much better than the lower bound, and whether that can be told from chance."""
    from pkdray.evaluate import against_bound
    from pkdray.evaluate.wording import change

    found = against_bound(evaluation, method)
    return (change(found["difference"], evaluation["metric"]), found["verdict"]) if found is not None else ("-", "")
