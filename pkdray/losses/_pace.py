"""How far the fast solver goes in each step, and when it stops: plain numbers, one of each for every problem.

Over-relaxation multiplies the step of a potential by a weight between 1 and 2. The best weight depends on the slowest
mode of the plain iteration, whose rate nobody knows beforehand: for points in clusters it is .99, and a weight that is
right for evenly spread points then takes hundreds of iterations. So the rate is observed between two checks, and turned
into the best weight by Young's relation for successive over-relaxation (Young 1954; for Sinkhorn's iteration: Lehmann,
von Renesse, Sambale and Uschmajew 2021, "A note on overrelaxation in the Sinkhorn algorithm").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from torch import Tensor

CHECK_EVERY = 4
"""Iterations between two looks at the residual; a look costs as much as an iteration."""

LARGEST_WEIGHT = 1.85
LARGEST_WEIGHT_NEARBY = 1.95
"""A weight of 1.9 may diverge far from the solution; nearby the iteration is linear, and slow modes need it."""

NEARBY = 0.03
"""Residual below which the solution is near."""

FAR = 0.5
"""A residual that grows beyond this shows divergence; below it, over-relaxed iterations may grow for a while."""

ACCURACY = 0.015
"""Residual to stop at where no tolerance is given, relative to what a gradient of full length stands.

It leaves relative errors of the gradient of 1e-2 at most, 1e-3 as a rule: docs/losses.md has the measurements.
"""


class Pace:
    """The weights of the next iterations, and whether every problem may stop.

    Args:
        spread: half the mean squared length of the points of x, centred, in units of epsilon.
        cost: the mean cost, in units of epsilon.
        tol: the residual to stop at; None takes the one at which the gradient is good to about ``ACCURACY``.
    """

    def __init__(self, spread: Sequence[float], cost: Sequence[float], tol: float | None) -> None:
        self._spread, self._tol = spread, tol
        self._weights = [min(max(1.25 + 0.27 * math.log10(max(value, 1e-9)), 1.0), 1.8) for value in cost]
        self._seen: tuple[int, Sequence[float]] = 0, [math.inf] * len(cost)

    def weight(self, like: Tensor) -> float | Tensor:
        """The weight of the next steps: a number for one problem, ``[L, 1, 1]`` for several."""
        if len(self._weights) == 1:
            return self._weights[0]
        return like.new_tensor(self._weights).view(-1, 1, 1)

    def only(self, lanes: Sequence[int]) -> Pace:
        """The pace of the named problems alone."""
        part = copy.copy(self)
        part._spread, part._weights = [self._spread[lane] for lane in lanes], [self._weights[lane] for lane in lanes]
        part._seen = self._seen[0], [self._seen[1][lane] for lane in lanes]
        return part

    def first_look(self, iteration: int, residual: Sequence[float]) -> None:
        """Remember a residual: one look shows no rate, and a small step may be one of many."""
        self._seen = iteration, residual

    def going(self, iteration: int, residual: Sequence[float], value: Sequence[float]) -> list[int]:
        """The problems that must go on (one that is NaN need not); adapts the weights to the rates seen.

        Args:
            iteration: the count of iterations so far.
            residual: L1 error of the marginals.
            value: the divergence so far, in units of epsilon, without the distance of the means.
        """
        (last, before), self._seen = self._seen, (iteration, residual)
        since = iteration - last
        going = []
        for lane, now in enumerate(residual):
            rate = (now / before[lane]) ** (1 / since) if 0 < now < before[lane] else 1.0
            # Steps that shrink by `rate` sum to 1 / (1 - rate) of the first; while they grow, nothing is known.
            left = now * max(1.0, 0.25 / (1 - rate)) if rate < 1 else now
            if left > self._tolerance(lane, value[lane]):
                going.append(lane)
            if rate < 1:
                largest = LARGEST_WEIGHT_NEARBY if now < NEARBY else LARGEST_WEIGHT
                self._weights[lane] = min(best_weight(self._weights[lane], rate), largest)
            elif now > FAR:
                self._weights[lane] = (1 + self._weights[lane]) / 2
        return going

    def _tolerance(self, lane: int, value: float) -> float:
        if self._tol is not None:
            return self._tol
        # A residual moves the gradient by itself times the points' length; the gradient is about sqrt(2 value) long.
        relative = math.sqrt(max(value, 0.0) / max(self._spread[lane], 1e-30))
        return ACCURACY * min(max(relative, 0.01), 1.0)


def best_weight(weight: float, rate: float) -> float:
    """The over-relaxation that is best for the slowest mode, known from the rate that ``weight`` reaches.

    Young: a mode that the plain iteration shrinks by s has a rate r with (r + w - 1)^2 = r w^2 s, and the best weight
    for it is 2 / (1 + sqrt(1 - s)). A rate of w - 1 or less comes from other modes, and tells nothing about s.

    Example:
        >>> round(best_weight(1.0, 0.96), 4)
        1.6667
    """
    if rate <= max(weight - 1, 0.5):
        return weight
    slowest = min(((rate + weight - 1) / weight) ** 2 / rate, 1.0)
    return 2 / (1 + math.sqrt(1 - slowest))
