"""A run as one HTML file that a person wants to look at: works offline, in light and dark, on a phone, in print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pkdray.files import write_text
from pkdray.report import answers, cost, curves, evaluation, reproduce, search, similarity, summary, teachers, trials
from pkdray.report.blocks import Section
from pkdray.report.facts import Facts, gather
from pkdray.report.page import page
from pkdray.search.run import Run

__all__ = ["REPORT", "Facts", "Written", "gather", "sections", "write_report"]

REPORT = "report.html"


@dataclass(frozen=True)
class Written:
    """What a report came to.

    Args:
        path: its file.
        size: in bytes.
        figures: how many.
        left_out: what was left out -> why.
        evaluated: whether there is an evaluation.
        overtaken: why that is not of the best trial any more; None where it is.
        as_then: the options of ``pkdray evaluate`` for which the test split was opened.
    """

    path: Path
    size: int
    figures: int
    left_out: dict[str, str]
    evaluated: bool
    overtaken: str | None
    as_then: list[str]


def sections(facts: Facts) -> list[Section]:
    """The parts of the report, in order."""
    return [
        summary.section(facts),
        evaluation.section(facts),
        search.section(facts),
        curves.section(facts),
        teachers.section(facts),
        similarity.section(facts),
        answers.section(facts),
        cost.section(facts),
        trials.section(facts),
        trials.where_section(facts),
        reproduce.section(facts),
    ]


def write_report(run: Run, path: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Written:
    """Write a run's report, atomically.

    Args:
        run: the run, finished or not, evaluated or not: what is not there yet says so.
        path: the file; None for ``<run>/report.html``.
        say: told what is being done.

    Raises:
        RunError: the run's ledger cannot be read.
        StorageError: the file cannot be written.
    """
    path = path or run.path / REPORT
    facts = gather(run, say)
    parts = sections(facts)
    say("Drawing ...")
    write_text(path, page(run.name, parts))
    return Written(
        path,
        path.stat().st_size,
        sum(part.figures for part in parts),
        {one.title: one.why for part in parts for one in part.missing},
        facts.evaluation is not None,
        facts.overtaken,
        facts.as_then,
    )
