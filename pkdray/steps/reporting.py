"""A run as one page to look at."""

from __future__ import annotations

import webbrowser
from dataclasses import asdict
from pathlib import Path

from pkdray import mirrors
from pkdray.console import Console
from pkdray.steps.wording import next_steps, short_path


def report(name: str, runs_dir: Path, output: Path | None, console: Console, *, open_it: bool = False) -> None:
    """Write a run's report, and open it in a browser if asked for."""
    from pkdray.report import write_report
    from pkdray.search.run import find_run

    run = find_run(name, runs_dir)
    with console.progress(f"Reporting {run.name} ...") as meter:
        written = write_report(run, output, meter.show)
        mirrors.push_file(written.path)
    here, file = short_path(run.path), short_path(written.path)
    # A browser looks at the file on this machine.
    seen = file if mirrors.uri_of(written.path) is None else str(written.path)
    evaluate = " ".join(["pkdray evaluate", here, *written.as_then])
    then = f"pkdray export {here} -o student" if written.evaluated and not written.overtaken else evaluate
    left_out = [f"  left out: {title}: {' '.join(why.split())}" for title, why in written.left_out.items()]
    console.result(
        {**asdict(written), "path": str(written.path)},
        f"The report is {file}: {written.figures} figures in one file of {written.size / 1e6:.1f} MB.",
        *left_out,
        *next_steps(
            *([] if open_it else [f"open {seen} in a browser"]),
            then,
        ),
    )
    if open_it:
        webbrowser.open(written.path.resolve().as_uri())
