"""How samples stand to each other: similarity matrices, and embeddings in the plane, teacher beside student."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pkdray.report.blocks import Block, Missing, Plot, Plots, Section, plain
from pkdray.report.facts import Facts
from pkdray.report.theme import COLOURS, legible, scale
from pkdray.report.thinning import thinned

_MOST_CLASSES = 12
_MARKS = ("circle", "diamond")


def section(facts: Facts) -> Section:
    """Matrices in one row, embeddings in another."""
    return Section("similarity", "What the student took over", [_matrices(facts), _embeddings(facts)])


def matrix(values: np.ndarray, labels: list[str], low: float, high: float) -> go.Figure:
    """One similarity matrix as a heat map.

    Args:
        values: [n, n] cosines.
        labels: n names of rows.
        low: where the colours begin, the same for matrices that are compared.
        high: where they end.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=np.asarray(values, dtype=np.float64).round(3).tolist(),
        zmin=low,
        zmax=high,
        colorscale=scale(),
        customdata=[[[plain(row), plain(column)] for column in labels] for row in labels],
        hovertemplate="%{customdata[0]} with %{customdata[1]}: %{z:.2f}<extra></extra>",
        colorbar={"thickness": 8, "len": 0.8, "outlinewidth": 0},
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    return figure


def plane(points: pd.DataFrame) -> go.Figure:
    """Embeddings in the plane: a colour and a mark a class, or a shade a number.

    Args:
        points: ``x``, ``y``, ``sample_id``, ``target``.
    """
    figure = go.Figure()
    target = points["target"]
    if pd.api.types.is_float_dtype(target):
        figure.add_scatter(
            x=points["x"].tolist(),
            y=points["y"].tolist(),
            mode="markers",
            marker={
                "color": target.tolist(),
                "colorscale": scale(),
                "size": 6,
                "showscale": True,
                "colorbar": {"thickness": 8, "len": 0.8, "outlinewidth": 0},
            },
            text=[plain(one) for one in points["sample_id"]],
            hovertemplate="%{text}: %{marker.color:.2f}<extra></extra>",
            showlegend=False,
        )
    else:
        named = target.astype(str)
        groups = sorted(named.unique())
        shown = dict(zip(groups, legible([str(group) for group in groups], 14), strict=True))
        for index, group in enumerate(groups):
            rows = points[named == group]
            figure.add_scatter(
                x=rows["x"].tolist(),
                y=rows["y"].tolist(),
                mode="markers",
                name=shown[group],
                marker={
                    "color": COLOURS[index % len(COLOURS)],
                    "symbol": _MARKS[index // len(COLOURS) % len(_MARKS)],
                    "size": 6,
                },
                text=[plain(one) for one in rows["sample_id"]],
                hovertemplate="%{text}<extra>%{fullData.name}</extra>",
                showlegend=len(groups) <= _MOST_CLASSES,
            )
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    return figure


def shared_range(*matrices: np.ndarray) -> tuple[float, float]:
    """One range of colours for several matrices, without their diagonals, which are 1 by definition.

    Example:
        >>> shared_range(np.array([[1.0, 0.2], [0.2, 1.0]]), np.array([[1.0, -0.5], [-0.5, 1.0]]))
        (-0.5, 0.2)
    """
    values = np.concatenate([one[~np.eye(len(one), dtype=bool)] for one in matrices])
    return float(values.min()), float(values.max())


def _matrices(facts: Facts) -> Block:
    found: Any = facts.similarity
    if found is None:
        return Missing("Similarity matrices", facts.why("similarity"))
    if len(found.labels) < 2:
        return Missing("Similarity matrices", "Validation has one labelled row: there is none to compare it with.")
    low, high = shared_range(found.teacher, found.before, found.after)
    labels = [str(label) for label in found.labels]
    agreement = found.agreement
    plots = [
        Plot(matrix(values, labels, low, high), name, height=300)
        for values, name in (
            (found.teacher, f"teacher {found.teacher_name}"),
            (found.before, f"student before ({agreement['before']:.2f})"),
            (found.after, f"student after ({agreement['after']:.2f})"),
        )
    ]
    says = (
        f"How alike each of {len(labels)} validation samples is to each other one, sorted by target: the more the "
        "student's picture after training looks like the teacher's, the more of its structure it has taken over. In "
        "brackets: correlation with the teacher's, 1 is the same."
        + thinned("validation rows", len(labels), found.total)
    )
    return Plots("Similarity matrices", says, plots, least=270)


def _embeddings(facts: Facts) -> Block:
    found = facts.projections
    if found is None or found.empty:
        return Missing("Embeddings in the plane", facts.why("projections"))
    plots, shown = [], 0
    for space in found["space"].unique():
        points = found[found["space"] == space]
        shown = len(points)
        plots.append(Plot(plane(points), str(space), height=340))
    says = (
        "Each point is a validation sample, laid out by t-SNE so that neighbours stay neighbours: classes (or targets) "
        "that lie apart are told apart; the axes and the distances between clouds mean nothing."
        + thinned("validation rows", shown, found.attrs["total"])
    )
    return Plots("Embeddings in the plane", says, plots, least=280)
