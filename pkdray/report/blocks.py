"""What a page is made of, as plain data: sections of text, tables, figures, and what is not there and why.

Whatever a user named (datasets, classes, subjects, files) is escaped here and in `plain`, and nowhere else.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go


@dataclass(frozen=True)
class Text:
    """A paragraph, with a command to copy below it where there is one."""

    text: str
    command: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Plot:
    """One figure.

    Args:
        figure: themed or not; the page does that.
        name: what it is of, above it where several stand side by side; "" where the block's title says it.
        height: in pixels.
    """

    figure: go.Figure
    name: str = ""
    height: int = 360


@dataclass(frozen=True)
class Plots:
    """Figures side by side where there is room, below each other where not.

    Args:
        title: above them.
        says: one plain sentence: what to see.
        plots: the figures.
        least: pixels that one needs; below that, they stack.
        scrolls: pixels below which a figure is not squeezed any more, but scrolls inside its own frame; 0: never.
    """

    title: str
    says: str
    plots: Sequence[Plot]
    least: int = 300
    scrolls: int = 0


@dataclass(frozen=True)
class Cell:
    """A table's cell that shows one thing and is sorted by another."""

    text: str
    value: float | str | None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table that a click on its header sorts."""

    title: str
    says: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Missing:
    """What is left out, why, and the command that would bring it."""

    title: str
    why: str
    command: str = ""


@dataclass(frozen=True)
class Document:
    """A long text in a box that opens, with a button that copies it."""

    title: str
    text: str


@dataclass(frozen=True)
class Tile:
    """A fact in large print."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Facts in large print, side by side."""

    tiles: Sequence[Tile]


Block = Text | Plots | Table | Missing | Document | Tiles


@dataclass(frozen=True)
class Section:
    """A part of the page. ``key`` is its address on it."""

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)

    @property
    def figures(self) -> int:
        """How many figures are in it."""
        return sum(len(block.plots) for block in self.blocks if isinstance(block, Plots))

    @property
    def missing(self) -> list[Missing]:
        """What was left out of it."""
        return [block for block in self.blocks if isinstance(block, Missing)]


def escaped(text: object) -> str:
    """Text for HTML, attributes included.

    Example:
        >>> escaped('<b a="1">')
        '&lt;b a=&quot;1&quot;&gt;'
    """
    return html.escape(str(text), quote=True)


def plain(name: object) -> str:
    """A user's name for a figure: plotly reads labels as a little HTML, and would take ``<b>`` for bold.

    Example:
        >>> plain("<b>joy</b> & co")
        '&lt;b&gt;joy&lt;/b&gt; &amp; co'
    """
    return html.escape(str(name), quote=False)


def number(value: object, digits: int = 4) -> str:
    """A number for a person; a dash for none.

    Example:
        >>> number(0.81249), number(3), number(None), number(float("nan")), number(1234567.0), number(0.00012)
        ('0.8125', '3', '–', '–', '1,234,567', '0.00012')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and math.isfinite(value)):
        return f"{value:,.0f}"
    if value and abs(value) < 10**-digits * 5:
        return f"{value:.2g}"
    return f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """A p value as papers print it.

    Example:
        >>> p_value(0.00004), p_value(0.0213), p_value(None)
        ('< 0.0001', '0.0213', '–')
    """
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def duration(seconds: float) -> str:
    """A length of time in words.

    Example:
        >>> duration(4.2), duration(61), duration(3720), duration(90000)
        ('4.2 s', '1 min 1 s', '1 h 2 min', '25 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 10:
        return f"{hours:,} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(many: int, one: str, more: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "trial"), count(24, "trial"), count(2, "class", "classes")
        ('1 trial', '24 trials', '2 classes')
    """
    return f"{many:,} {one if many == 1 else more or one + 's'}"
