"""The test split: opened once, and what it said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkdray.console import Console
from pkdray.steps.studies import check_room, taught
from pkdray.steps.wording import next_steps, short_path


def evaluate(
    name: str, runs_dir: Path, console: Console, *, seeds: int, reopen: bool, address: str | None, verbose: bool
) -> None:
    """Open the test split."""
    from pkdray.cluster import connected
    from pkdray.evaluate import evaluate_run
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    dataset = run.dataset()
    plan = run.plan(dataset)
    with run.lock(), connected(address, verbose=verbose):
        check_room(plan, run.runs_dir, address)
        pool = taught(plan, dataset, run.runs_dir, console)
        with console.progress(f"Evaluating {run.name}: {seeds} seeds of the student and of its lower bound ..."):
            evaluation = evaluate_run(run, plan, dataset, pool, seeds=seeds, reopen=reopen)
    show_evaluation(evaluation, console)
    console.result(evaluation, *next_steps(f"pkdray export {short_path(run.path)} -o student"))


def show_evaluation(evaluation: Mapping[str, Any], console: Console) -> None:
    """The table of the student between its bounds, and what it means in words."""
    metric = evaluation["metric"]
    labels = {"lower_bound": "lower bound", "student": "student", "teacher": "upper bound"}
    console.table(
        f"Test {metric}, {len(evaluation['seeds'])} seeds",
        ["", "what", "mean", "std", "95 % interval"],
        [
            [
                labels[key],
                about["what"],
                about["mean"],
                about["std"],
                " to ".join(f"{end:.4f}" for end in about["interval"]) if about["interval"] else "-",
            ]
            for key, about in evaluation["methods"].items()
        ],
    )
    if not console.as_json:
        console.result(None, verdict(evaluation))


def verdict(evaluation: Mapping[str, Any]) -> str:
    """The comparison in plain words."""
    comparison, seeds = evaluation["comparison"], len(evaluation["seeds"])
    gain = f"{comparison['difference']:+.4f} {evaluation['metric']} over the lower bound"
    if comparison["p_value"] is None:
        return f"Not enough evidence: {gain}, from {seeds} seed{'s' * (seeds != 1)}; more seeds are needed for a test."
    sure = (
        f"{gain} (95 % {comparison['interval'][0]:+.4f} to {comparison['interval'][1]:+.4f}, {comparison['test']} "
        f"over {seeds} seeds, p = {comparison['p_value']:.2g})"
    )
    words = {"helped": "Distillation helped", "hurt": "Distillation hurt", "not enough evidence": "Not enough evidence"}
    opened = evaluation["test_opened"]["times"]
    again = f" The test split has been opened {opened} times." if opened > 1 else ""
    return f"{words[comparison['verdict']]}: {sure}.{again}"
