"""Several runs in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdray.console import Console
from pkdray.errors import ConfigError
from pkdray.steps.wording import short_path

if TYPE_CHECKING:
    from pkdray.diagnostics.comparing import RunSummary
    from pkdray.search.run import Run

FORMATS = (".csv", ".md", ".html")


def compare(names: Sequence[str], runs_dir: Path, console: Console, *, output: Path | None = None) -> None:
    """The runs side by side, and whether their differences can be told from chance."""
    from pkdray.diagnostics.comparing import COLUMNS, as_texts, paired, remarks, summarise
    from pkdray.search.run import find_run

    if output is not None and output.suffix not in FORMATS:
        raise ConfigError(f"{output} is no table's name.", cure=f"End it with {', '.join(FORMATS)}.")
    runs = _labelled([find_run(name, runs_dir) for name in names])
    with console.progress(f"Reading {len(runs)} run{'s' * (len(runs) != 1)} ..."):
        found = [summarise(run, name) for name, run in runs.items()]
    tested = paired(found)
    said = [*remarks(found), *_overtaken(runs)]
    lines = [*said, *(one["sentence"] for one in tested)]
    metrics = ", ".join(dict.fromkeys(run.metric for run in found))
    title = f"{len(found)} run{'s' * (len(found) != 1)} ({metrics}; bounds and student on test)"
    if output is not None:
        _write(output, found, title, lines)
    console.table(title, COLUMNS, [row for run in found for row in as_texts(run)])
    console.result(
        {"runs": [_plain(run) for run in found], "remarks": said, "paired": tested},
        *lines,
        *([f"The table is in {output}."] if output is not None else []),
    )


def _labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Each run once, by its name, or by its path where two have the same name."""
    once = {run.path.resolve(): run for run in runs}
    names = [run.name for run in once.values()]
    return {run.name if names.count(run.name) == 1 else short_path(run.path): run for run in once.values()}


def _overtaken(runs: Mapping[str, Run]) -> list[str]:
    from pkdray.evaluate import overtaken, read_evaluation

    found = {}
    for name, run in runs.items():
        best = run.ledger().best()
        found[name] = overtaken(read_evaluation(run), best.number if best else None)
    return [f"{name}: {why} Bounds and student are those of the evaluation." for name, why in found.items() if why]


def _plain(run: RunSummary) -> dict[str, Any]:
    scores = [{"fold": fold, "seed": seed, "test": value} for (fold, seed), value in run.scores.items()]
    return {**asdict(run), "scores": scores}


def _write(path: Path, found: Sequence[RunSummary], title: str, lines: Sequence[str]) -> None:
    import pandas as pd

    from pkdray.diagnostics.comparing import COLUMNS, as_rows, as_texts
    from pkdray.files import write_text

    if path.suffix == ".csv":
        write_text(path, pd.DataFrame([row for run in found for row in as_rows(run)], dtype=object).to_csv(index=False))
        return
    rows = [row for run in found for row in as_texts(run)]
    if path.suffix == ".md":
        cells = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
        write_text(path, "\n\n".join([f"# {title}", table, *lines]) + "\n")
        return
    write_text(path, _page(pd.DataFrame(rows, columns=list(COLUMNS)).to_html(index=False, border=0), title, lines))


def _page(table: str, title: str, lines: Sequence[str]) -> str:
    from html import escape

    said = "".join(f"<p>{escape(line)}</p>\n" for line in lines)
    style = "body{font:15px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.3em .8em;"
    # The table scrolls sideways: wide enough that a score and its interval take two lines.
    style += "border-bottom:1px solid #8886;text-align:left;vertical-align:top}td:nth-child(n+6):nth-child(-n+8)"
    style += "{min-width:11em}:root{color-scheme:light dark}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f'<div style="overflow-x:auto">{table}</div>\n{said}</body></html>\n'
    )
