"""Fewer points where an eye cannot tell more apart, and a page must stay light."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def evenly(total: int, most: int) -> np.ndarray:
    """At most ``most`` of ``total`` positions, evenly spread, ascending, the first and the last among them.

    Example:
        >>> evenly(3, 5).tolist(), evenly(9, 3).tolist()
        ([0, 1, 2], [0, 4, 8])
    """
    if total <= most:
        return np.arange(total)
    return np.unique(np.linspace(0, total - 1, most).round().astype(int))


def drawn(total: int, most: int, seed: int = 0) -> np.ndarray:
    """At most ``most`` of ``total`` positions, drawn at random, the same at each call, ascending.

    Example:
        >>> drawn(2, 5).tolist(), len(set(drawn(1000, 30).tolist()))
        ([0, 1], 30)
    """
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, most, replace=False))


def thinned(what: str, shown: int, total: int) -> str:
    """What a caption says of it; nothing where all are shown.

    Example:
        >>> thinned("trials", 200, 1000), thinned("trials", 5, 5)
        (' (200 of 1,000 trials are drawn.)', '')
    """
    return f" ({shown:,} of {total:,} {what} are drawn.)" if shown < total else ""


def joined(lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float | None], list[float | None]]:
    """Many lines as one, with gaps between them: a figure of a thousand traces is slow, one of a single trace is not.

    Example:
        >>> joined([([1, 2], [5.0, 6.0]), ([1], [7.0])])
        ([1, 2, None, 1], [5.0, 6.0, None, 7.0])
    """
    x: list[float | None] = []
    y: list[float | None] = []
    for xs, ys in lines:
        if x:
            x.append(None)
            y.append(None)
        x.extend(xs)
        y.extend(ys)
    return x, y
