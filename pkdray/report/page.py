"""Sections to one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from pkdray import __version__
from pkdray.report.blocks import (
    Block,
    Cell,
    Document,
    Missing,
    Plots,
    Section,
    Table,
    Text,
    Tiles,
    escaped,
    number,
)
from pkdray.report.theme import DARK, themed

# Blocks every request: what a report says is nobody else's business. plotly.js needs eval for some of its traces.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:"
)

_SHORT = 28
"""Letters up to which a cell is not broken into lines."""


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: of the run.
        sections: in order; their blocks hold unescaped text.
    """
    figures: list[dict[str, Any]] = []
    body = "\n".join(_section(section, figures) for section in sections)
    links = "\n".join(f'<li><a href="#{one.key}">{escaped(one.title)}</a></li>' for one in sections)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)} · pkdray report</title>
<style>
{_asset("page.css")}
</style>
</head>
<body>
<a class="skip" href="#summary">Skip to the summary</a>
<header>
<div><h1>{escaped(title)}</h1><p class="made">Report of a pkdray run · {made} · pkdray {escaped(__version__)}</p></div>
<button id="theme" type="button" aria-label="Switch between light and dark">Dark</button>
</header>
<nav aria-label="Contents"><details open><summary>Contents</summary><ul>
{links}
</ul></details></nav>
<main>
<noscript><p class="note">Figures need JavaScript; text and tables do not.</p></noscript>
{body}
</main>
<script type="application/json" id="figures">{_json({"figures": figures, "dark": DARK})}</script>
<script>{get_plotlyjs()}</script>
<script>
{_asset("page.js")}
</script>
</body>
</html>
"""


def table_html(table: Table) -> str:
    """A table whose headers sort it."""
    cells = [[value if isinstance(value, Cell) else _plain_cell(value) for value in row] for row in table.rows]
    heads = ""
    for index, column in enumerate(table.columns):
        kinds = {isinstance(row[index].value, int | float) for row in cells if row[index].value is not None}
        kind = ' class="n"' if kinds == {True} else ""
        heads += f'<th scope="col" aria-sort="none"{kind}><button type="button">{escaped(column)}</button></th>'
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(table.title)}"><table>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _section(section: Section, figures: list[dict[str, Any]]) -> str:
    blocks = "\n".join(_block(block, figures) for block in section.blocks)
    return f'<section id="{section.key}"><h2>{escaped(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block, figures: list[dict[str, Any]]) -> str:
    if isinstance(block, Text):
        kind = f' class="{block.kind}"' if block.kind else ""
        return f"<p{kind}>{escaped(block.text)}</p>" + _command(block.command)
    if isinstance(block, Tiles):
        tiles = "".join(
            f'<div class="tile"><dt>{escaped(one.name)}</dt><dd><b>{escaped(one.value)}</b>'
            f"<span>{escaped(one.note)}</span></dd></div>"
            for one in block.tiles
        )
        return f'<dl class="tiles">{tiles}</dl>'
    if isinstance(block, Missing):
        return f'<p class="missing"><b>{escaped(block.title)}.</b> {escaped(block.why)}</p>' + _command(block.command)
    if isinstance(block, Document):
        return f'<details class="document"><summary>{escaped(block.title)}</summary>{_command(block.text)}</details>'
    head = (f"<h3>{escaped(block.title)}</h3>" if block.title else "") + f'<p class="says">{escaped(block.says)}</p>'
    if isinstance(block, Table):
        return f'<div class="block">{head}{table_html(block)}</div>'
    return f'<div class="block">{head}{_plots(block, figures)}</div>'


def _plots(block: Plots, figures: list[dict[str, Any]]) -> str:
    drawn = []
    for plot in block.plots:
        figure = json.loads(themed(plot.figure).to_json())
        key = f"figure-{len(figures)}"
        figures.append({"id": key, "data": figure["data"], "layout": figure["layout"]})
        name = f"<figcaption>{escaped(plot.name)}</figcaption>" if plot.name else ""
        label = escaped(". ".join(part for part in (block.title, plot.name, block.says) if part))
        width = f";min-width:{block.scrolls}px" if block.scrolls else ""
        drawn.append(
            f'<figure>{name}<div class="frame"><div class="plot" id="{key}" role="img" aria-label="{label}" '
            f'style="height:{plot.height}px{width}"></div></div></figure>'
        )
    return f'<div class="plots" style="--least:{block.least}px">{"".join(drawn)}</div>'


def _command(command: str) -> str:
    if not command:
        return ""
    return f'<div class="command"><pre>{escaped(command)}</pre><button type="button" class="copy">Copy</button></div>'


def _cell(cell: Cell) -> str:
    shown = escaped(cell.text)
    shown = f"<b>{shown}</b>" if cell.strong else shown
    nothing = cell.value is None or cell.value != cell.value
    if isinstance(cell.value, int | float) and not nothing:
        return f'<td class="n" data-value="{cell.value!r}">{shown}</td>'
    if nothing:
        return f'<td class="n" data-value="">{shown}</td>'
    return f"<td>{shown}</td>" if len(cell.text) > _SHORT else f'<td class="s">{shown}</td>'


def _plain_cell(value: object) -> Cell:
    if value is None or value != value:
        return Cell("–", None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(number(value), value)
    return Cell(str(value), str(value))


def _json(value: Any) -> str:
    """JSON that may stand inside a script: no text in it can end that."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _asset(name: str) -> str:
    return (files("pkdray.report") / "assets" / name).read_text(encoding="utf-8")
