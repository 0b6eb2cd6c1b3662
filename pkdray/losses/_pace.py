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

PLATEAU = 0.97
"""A rate above this is no convergence yet: potentials drift, and a line search along their way is shorter."""

DRIFT = 0.003
"""Residual above which a plateau is such a drift, and not the rounding or the slowest modes of the end."""

NEARBY = 0.03
"""Residual below which the solution is near."""

FAR = 0.5
"""A residual that grows beyond this shows divergence; below it, over-relaxed iterations may grow for a while."""

ACCURACY = 0.02
"""Aimed relative error of the gradient where no tolerance is given.

An upper bound of the estimate, not of the error: docs/losses.md has the errors that were measured.
"""


class Pace:
    """The weights of the next iterations, and whether every problem may stop.

    Args:
        spread: half the mean squared length of the points of x, centred, in units of epsilon.
        cost: the mean cost, in units of epsilon.
        share: which share of the spread each point of x has, ``[L, 1, n]``, summing to 1.
        tol: the residual to stop at; None takes the one that leaves the gradient an error of about ``accuracy``.
        accuracy: relative, of the gradient.
    """

    def __init__(
        self,
        spread: Sequence[float],
        cost: Sequence[float],
        share: Tensor,
        tol: float | None,
        accuracy: float = ACCURACY,
    ) -> None:
        self._spread, self._share, self._tol, self._accuracy = spread, share, tol, accuracy
        self._weights = [min(max(1.25 + 0.27 * math.log10(max(value, 1e-9)), 1.0), 1.8) for value in cost]
        self._seen: tuple[int, Sequence[float]] = 0, [math.inf] * len(cost)
        self._stuck: list[int] = []
        self._patience = 2 * CHECK_EVERY

    def weight(self, like: Tensor) -> float | Tensor:
        """The weight of the next steps: a number for one problem, ``[L, 1, 1]`` for several."""
        if len(self._weights) == 1:
            return self._weights[0]
        return like.new_tensor(self._weights).view(-1, 1, 1)

    def only(self, lanes: Sequence[int]) -> Pace:
        """The pace of the named problems alone."""
        part = copy.copy(self)
        part._spread, part._weights = [self._spread[lane] for lane in lanes], [self._weights[lane] for lane in lanes]
        part._share = self._share[list(lanes)]
        part._stuck = [place for place, lane in enumerate(lanes) if lane in self._stuck]
        part._seen = self._seen[0], [self._seen[1][lane] for lane in lanes]
        return part

    def residual(self, log_u: Tensor, step: Tensor) -> Tensor:
        """How far the rows' sums are from 1, ``[L]``: the L1 error of the marginals where a tolerance was given.

        Without one, the root of the mean square, in which a point counts by the square of its distance from the centre:
        mass that is misplaced there pulls as far, and late in training a few points have the whole gradient.
        """
        if self._tol is None:
            return (step - log_u).square_().mul_(self._share).sum(2).sqrt_().flatten()
        return (log_u - step).expm1_().abs_().sum(2).mul_(1 / step.shape[2]).flatten()

    def stuck(self, iteration: int) -> list[int]:
        """The problems whose residual did not shrink since the last look although it is far from small enough.

        More and more rarely, since a line search costs several iterations: one that did not help is not soon repeated.
        """
        if iteration < self._patience or not self._stuck:
            return []
        self._patience = iteration + iteration // 3
        return self._stuck

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
        going, self._stuck = [], []
        for lane, now in enumerate(residual):
            rate = (now / before[lane]) ** (1 / since) if 0 < now < before[lane] else 1.0
            # Steps that shrink by `rate` sum to 1 / (1 - rate) of the first. Over-relaxation with weight w leaves modes
            # that shrink by w - 1 and no faster, which the first steps do not show. While steps grow, nothing is known.
            slowest = max(rate, self._weights[lane] - 1)
            left = now / (1 - slowest) if rate < 1 and self._tol is None else now
            if left > self._tolerance(lane, value[lane]):
                if rate > PLATEAU and now > DRIFT:
                    self._stuck.append(lane)
                going.append(lane)
            if rate < 1:
                largest = LARGEST_WEIGHT_NEARBY if now < NEARBY else LARGEST_WEIGHT
                self._weights[lane] = min(best_weight(self._weights[lane], rate), largest)
            elif now > FAR:
                self._weights[lane] = (1 + self._weights[lane]) / 2
        return going

    def _tolerance(self, lane: int, value: float) -> float:
        if self._tol is not None:
            # Half of it, since the last column step moves the rows a little once more.
            return self._tol / 2
        # A residual moves the gradient by itself times the points' length; the gradient is about sqrt(2 value) long.
        relative = math.sqrt(max(value, 0.0) / max(self._spread[lane], 1e-30))
        return self._accuracy * min(max(relative, 0.01), 1.0)


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
