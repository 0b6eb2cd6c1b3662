"""A running sweep as a table that fits the terminal; what it shows is live.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pkdray.console import duration, shown, teaching_line

_FATES = {"complete": "green", "pruned": "yellow", "failed": "red"}
_HEAD = 9
"""Lines above and below the rows."""


def live_view(live: Mapping[str, Any], *, height: int = 24, note: str = "") -> RenderableType:
    """The whole picture.

    Args:
        live: what live.json holds.
        height: lines of the terminal; rows beyond it are counted, not shown.
        note: what to think of it, as that nothing was heard for long.
    """
    parts: list[RenderableType] = [_title(live), _bar(live["counts"])]
    if live["state"] == "teaching":
        parts.append(Text(teaching_line(live)))
    parts += [line for line in (_best(live), _pace(live)) if line.plain]
    if live["running"] or live["finished"]:
        parts.append(_table(live, max(2, height - _HEAD)))
    if note:
        parts.append(Text(note, style="bold yellow"))
    return Group(*parts)


def _title(live: Mapping[str, Any]) -> Text:
    left = f", about {duration(live['seconds_left'])} left" if live["seconds_left"] else ""
    return Text.assemble(
        (f"Sweep {live['run']}", "bold"), f" {live['state']} · {duration(live['seconds'])} elapsed{left}"
    )


def _bar(counts: Mapping[str, int]) -> Table:
    fates = [f"{counts[name]} {name}" for name in ("complete", "pruned", "failed", "running") if counts[name]]
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    said = f"{counts['finished']}/{counts['planned']} trials" + (f" ({', '.join(fates)})" if fates else "")
    grid.add_row(ProgressBar(total=max(1, counts["planned"]), completed=counts["finished"]), said)
    return grid


def _best(live: Mapping[str, Any]) -> Text:
    best = live["best"]
    if best is None:
        return Text()
    who = f"trial {best['trial']}" + (f", {best['method']}" if best.get("method") else "")
    return Text.assemble("best ", (f"{live['metric']} {shown(best['value'])}", "bold green"), f" ({who})")


def _pace(live: Mapping[str, Any]) -> Text:
    parts = []
    if live["epochs_per_second"]:
        parts.append(f"{live['epochs_per_second']:.3g} epochs/s")
    if live["trials_per_minute"]:
        parts.append(f"{live['trials_per_minute']:.3g} trials/min")
    rungs = [f"{rung['epoch']} ({rung['trials']} trials)" for rung in live["rungs"] or [] if rung["trials"]]
    if rungs:
        parts.append(f"rungs {', '.join(rungs)}")
    return Text(" · ".join(parts), style="dim")


def _table(live: Mapping[str, Any], room: int) -> RenderableType:
    running, finished = live["running"], live["finished"]
    # What runs comes first; what has ended gets the lines that are left, but two.
    rows = running[: max(1, room - min(2, len(finished)) - 1)]
    ended = finished[: max(0, room - len(rows) - 1)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("method and what was proposed", ratio=1, min_width=12, no_wrap=True, overflow="ellipsis")
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column("best", justify="right", no_wrap=True)
    table.add_column("rung", justify="right", no_wrap=True)
    table.add_column("where", no_wrap=True, overflow="ellipsis", max_width=18)
    for row in rows:
        where = " ".join(str(row[name]) for name in ("node", "device") if row[name]) or "starting"
        table.add_row(
            str(row["trial"]),
            proposal(row),
            f"{row['epoch']}/{row['epochs']}",
            shown(row["value"]),
            str(row["rung"]) if row["rung"] else "-",
            where,
        )
    table.add_section()
    for row in ended:
        fate = Text(row["fate"], style=_FATES.get(row["fate"], ""))
        table.add_row(str(row["trial"]), proposal(row), str(row["epochs"]), shown(row["value"]), "", fate)
    if len(rows) < len(running):
        return Group(table, Text(f"and {len(running) - len(rows)} more running", style="dim"))
    return table


def proposal(row: Mapping[str, Any]) -> Text:
    """A trial's method and hyperparameters, those of the method first.

    Example:
        >>> proposal({"method": "kl", "parameters": {"training.learning_rate": 0.00125, "method.alpha": 0.5}}).plain
        'kl alpha=0.5 learning_rate=0.00125'
    """
    values = {path: value for path, value in row["parameters"].items() if path != "method.name"}
    ordered = sorted(values, key=lambda path: (not path.startswith("method."), path))
    said = [f"{path.rpartition('.')[2]}={_short(values[path])}" for path in ordered]
    return Text.assemble((row["method"], "bold"), " " * bool(said), " ".join(said))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
