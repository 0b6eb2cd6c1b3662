"""How every figure looks: one palette for light and for dark, told apart by colour-blind readers too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from pkdray.report.blocks import plain

INK, MUTED, FAINT, GRID, PAPER = "#1f2933", "#5f6b76", "#b9c2ca", "#e7ebee", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, SKY, GOLD = "#0072b2", "#d55e00", "#009e73", "#a8578a", "#3f9bd1", "#b58400"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GOLD)
"""After Okabe and Ito (2008), the paler ones darkened until thin lines of them are seen on white."""
STEPS = ("#e3edf5", "#bcd5e8", "#8ab6d6", "#5795c1", "#2c75a8", "#0b4f82")
"""From nothing, which is nearly the ground, to much."""
DARK = {
    INK: "#e6e9ec",
    MUTED: "#a3adb7",
    FAINT: "#56616c",
    GRID: "#2a323a",
    PAPER: "#161b20",
    BLUE: "#5eb1ea",
    ORANGE: "#f08a4b",
    GREEN: "#45c79c",
    PURPLE: "#d792bb",
    SKY: "#9bd3f5",
    GOLD: "#e3bd4f",
    **dict(zip(STEPS, ("#1d2a36", "#24435c", "#2d6186", "#3f84b3", "#62a9d8", "#9fd0f2"), strict=True)),
}
"""What the page puts in the place of each colour of a figure when it is dark. Figures are made for light."""

ROLES = {"lower_bound": ORANGE, "student": BLUE, "teacher": GREEN}
SYMBOLS = {"lower_bound": "diamond", "student": "circle", "teacher": "square"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def scale(*, turned: bool = False) -> list[list[float | str]]:
    """The palette's steps as a plotly colour scale; ``turned`` where little is better.

    Example:
        >>> scale()[0], scale(turned=True)[0]
        ([0.0, '#e3edf5'], [0.0, '#0b4f82'])
    """
    steps = STEPS[::-1] if turned else STEPS
    return [[index / (len(steps) - 1), colour] for index, colour in enumerate(steps)]


def step(share: float) -> str:
    """The colour of a share in [0, 1].

    Example:
        >>> step(0.0), step(1.0)
        ('#e3edf5', '#0b4f82')
    """
    return STEPS[min(len(STEPS) - 1, max(0, round(share * (len(STEPS) - 1))))]


def colour(index: int) -> str:
    """The colour of the ``index``-th of several things; they come round again after six."""
    return COLOURS[index % len(COLOURS)]


def themed(figure: go.Figure) -> go.Figure:
    """Give a figure the report's look, whoever made it; its title goes, since the page has one above it."""
    # An empty Layout of plotly's stands for its own template, which has seven kilobytes of another look.
    figure.update_layout(template=_template(), title=None, width=None, autosize=True)
    return figure


def sparse_ticks(figure: go.Figure) -> go.Figure:
    """Label 1, 2 and 5 of a decade on logarithmic axes, where plotly would label all nine and they would collide."""
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        if axis.type == "log":
            axis.update(dtick="D2")
    return figure


def legible(names: Sequence[str], most: int = 28) -> list[str]:
    """Names cut to a length that an axis has room for, still told apart, and safe for a figure.

    They are cut before they are escaped, so that no cut goes through an ``&lt;``.

    Example:
        >>> legible(["abc", "x" * 9 + "1", "x" * 9 + "2"], 6)
        ['abc', 'xxxxx… (1)', 'xxxxx… (2)']
    """
    short = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
    doubled = {name for name in short if short.count(name) > 1}
    seen: dict[str, int] = {}
    result = []
    for name in short:
        seen[name] = seen.get(name, 0) + 1
        result.append(plain(f"{name} ({seen[name]})" if name in doubled else name))
    return result


def _template() -> go.layout.Template:
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "linecolor": FAINT,
        "zeroline": False,
        # Ticks of the ground's own colour: nothing but a distance between an axis and its labels.
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": PAPER,
        "title": {"standoff": 10, "font": {"size": 13, "color": MUTED}},
    }
    bar = {"outlinewidth": 0, "thickness": 12, "tickcolor": FAINT}
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(COLOURS),
            "colorscale": {"sequential": scale()},
            "coloraxis": {"colorbar": bar},
            # Each makes room beside itself alone. If the last label of x made the figure narrower, that could thin the
            # labels out, which would widen it again: plotly gives up after some rounds of this, and says so.
            "xaxis": {**axis, "automargin": "height"},
            "yaxis": {**axis, "automargin": "width"},
            "margin": {"l": 12, "r": 16, "t": 16, "b": 12},
            "legend": {
                "orientation": "h",
                "traceorder": "normal",
                "x": 0,
                "y": 1.02,
                "xanchor": "left",
                "yanchor": "bottom",
                "title": "",
            },
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": FAINT, "font": {"family": FONT, "color": INK}},
            "bargap": 0.35,
        },
        data={"heatmap": [{"colorbar": bar}], "contour": [{"colorbar": bar}]},
    )
