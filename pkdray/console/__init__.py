"""What a person sees: lines, tables, progress and errors. The only room that prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.live import Live

    from pkdray.errors import PkdrayError
    from pkdray.search.sweep import Progress

_LINE_SECONDS = 10.0
_WIDE = 200


class Console:
    """Output of one command.

    Results go to standard output, everything else to standard error, so that a script can read the results. With
    ``as_json`` standard output holds one JSON document and nothing else.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def say(self, text: str) -> None:
        """A line about what is going on."""
        self._rich(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)

    def result(self, data: Any, *lines: str) -> None:
        """The command's result: JSON if asked for, else the given lines."""
        if self.as_json:
            print(json.dumps(data, indent=2, default=str), flush=True)
            return
        for line in lines:
            print(line, flush=True)

    def hand_on(self, text: str) -> None:
        """What another process has printed, as it is; with ``as_json`` on standard error."""
        print(text, end="", flush=True, file=sys.stderr if self.as_json else sys.stdout)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table for a person; nothing with ``as_json``."""
        if self.as_json:
            return
        from rich import box
        from rich.table import Table

        table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for index, column in enumerate(columns):
            numbers = all(isinstance(row[index], int | float) or str(row[index])[:1].isdigit() for row in rows)
            table.add_column(column, justify="right" if numbers and rows and index else "left", overflow="fold")
        for row in rows:
            table.add_row(*(shown(value) for value in row))
        self._rich(stderr=False).print(table)

    def show_live(self, live: Mapping[str, Any], note: str = "") -> None:
        """Where a sweep stands, as a table on standard output."""
        from pkdray.console.live import live_view

        console = self._rich(stderr=False)
        console.print(live_view(live, note=note, height=console.height))

    @contextmanager
    def progress(self, what: str) -> Iterator[Meter]:
        """What changes in place on a terminal, and is a line now and then elsewhere."""
        console = self._rich(stderr=True)
        if console.is_terminal:
            from rich.live import Live

            with Live(console=console, transient=True, refresh_per_second=8) as screen:
                meter = Meter(self, screen)
                meter.show(what)
                yield meter
        else:
            self.say(what)
            yield Meter(self, None, said=what)

    def _rich(self, *, stderr: bool) -> RichConsole:
        from rich.console import Console as RichConsole

        console = RichConsole(stderr=stderr)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            # A file or a job's log has no width; 80 columns would break words.
            console.width = _WIDE
        return console


class Meter:
    """Shows where a step stands."""

    def __init__(self, console: Console, screen: Live | None, said: str = "") -> None:
        self._console = console
        self._screen = screen
        self._last: tuple[float, str] = (float("-inf"), said)

    def show(self, text: str) -> None:
        """Replace the line; off a terminal, print it unless one was printed a moment ago."""
        if self._screen is not None:
            from rich.spinner import Spinner
            from rich.text import Text

            self._screen.update(Spinner("dots", Text(text)))
            return
        now = time.monotonic()
        if now - self._last[0] >= _LINE_SECONDS and text != self._last[1]:
            self._last = (now, text)
            self._console.say(text)

    def sweep(self, progress: Progress) -> None:
        """A sweep's progress."""
        self.live(progress.live)

    def live(self, live: Mapping[str, Any], note: str = "") -> None:
        """What live.json says: a table on a terminal, else a line; ``note`` is what to think of it."""
        if self._screen is not None:
            from pkdray.console.live import live_view

            self._screen.update(live_view(live, height=self._screen.console.height, note=note))
            return
        self.show(" · ".join(part for part in (live_line(live), note) if part))


def live_line(live: Mapping[str, Any]) -> str:
    """What live.json says as one line."""
    best = live["best"] or {"value": None, "trial": None}
    if live["state"] == "teaching":
        return teaching_line(live)
    return progress_line(
        SimpleNamespace(
            counts=SimpleNamespace(**live["counts"]),
            best_value=best["value"],
            best_number=best["trial"],
            seconds=live["seconds"],
            seconds_left=live["seconds_left"],
        )
    )


def teaching_line(live: Mapping[str, Any]) -> str:
    """Which teachers are trained, with their metric, and which are in training.

    Example:
        >>> teaching_line({"teachers": {"trained": {"joint": 0.97}, "training": ["shape"]}})
        'Teachers: joint 0.9700; training shape'
    """
    teachers = live.get("teachers", {})
    trained = ", ".join(f"{name} {value:.4f}" for name, value in teachers.get("trained", {}).items())
    if teachers.get("training"):
        doing = f"training {', '.join(teachers['training'])}"
    else:
        doing = "adapters and embeddings" if trained else "starting"
    return "Teachers: " + "; ".join(part for part in (trained, doing) if part)


def progress_line(progress: Progress | SimpleNamespace) -> str:
    """A sweep's progress as one line.

    Example:
        >>> from types import SimpleNamespace as Some
        >>> counts = Some(planned=24, complete=7, pruned=5, failed=0, running=2, finished=12)
        >>> progress_line(Some(counts=counts, best_number=9, best_value=0.818, seconds=61.1, seconds_left=63.0))
        '12/24 trials done (5 pruned), 2 running · best 0.8180 (trial 9) · 1:01 elapsed, about 1:03 left'
    """
    counts = progress.counts
    ended = [f"{count} {word}" for count, word in ((counts.pruned, "pruned"), (counts.failed, "failed")) if count]
    parts = [
        f"{counts.finished}/{counts.planned} trials done"
        + (f" ({', '.join(ended)})" if ended else "")
        + (f", {counts.running} running" if counts.running else "")
    ]
    if progress.best_value is not None:
        parts.append(f"best {progress.best_value:.4f} (trial {progress.best_number})")
    left = f", about {duration(progress.seconds_left)} left" if progress.seconds_left else ""
    parts.append(f"{duration(progress.seconds)} elapsed{left}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``.

    Example:
        >>> duration(61.4), duration(3661)
        ('1:01', '1:01:01')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def shown(value: object) -> str:
    """A table's cell: a dash for nothing, four decimals for a fraction."""
    if value is None or value != value:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_error(error: PkdrayError, *, as_json: bool) -> None:
    """An error that the user can mend, on standard error; with ``as_json`` also as a document on standard output."""
    if as_json:
        said = {"error": type(error).__name__, "what": error.what, "details": list(error.details), "cure": error.cure}
        print(json.dumps(said, indent=2))
    print(f"Error: {error}", file=sys.stderr)
