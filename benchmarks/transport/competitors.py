"""Who runs: each computes the same divergences from the same clouds, called the way its own manual shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import ot
import torch
from geomloss import SamplesLoss
from ot.batch import solve_batch
from torch import Tensor

from pkdray.losses import sinkhorn_divergence

Setting = float | None


class Competitor(NamedTuple):
    """A way to compute divergences ``[L]`` from clouds ``[L, B, k]``.

    Attributes:
        solve: x, y, epsilon, setting -> divergences, differentiable in y.
        settings: one, or a ladder from fast to exact of which the first rung that meets the bar is timed.
        batched: solve takes many lanes at once.
        looped: solve is (also) called lane by lane.
        largest: largest batch; the unrolled graph of a larger one would not fit the memory.
        patience: factor on the seconds it may spend in a cell.
    """

    name: str
    solve: Callable[[Tensor, Tensor, float, Setting], Tensor]
    settings: tuple[Setting, ...] = (None,)
    batched: bool = True
    looped: bool = False
    largest: int | None = None
    patience: int = 1


def ours(x: Tensor, y: Tensor, epsilon: float, _setting: Setting) -> Tensor:
    """pkdray, with its defaults."""
    return sinkhorn_divergence(x, y, epsilon)


def geomloss(x: Tensor, y: Tensor, epsilon: float, scaling: Setting) -> Tensor:
    """Annealed and averaged Sinkhorn: the smaller the steps (scaling near 1), the nearer to convergence."""
    return SamplesLoss("sinkhorn", p=2, blur=math.sqrt(epsilon), scaling=scaling)(x, y)


def pot_autodiff(x: Tensor, y: Tensor, epsilon: float, _setting: Setting) -> Tensor:
    """POT's default: every iteration recorded, at a tolerance that float32 never meets."""
    return _by_hand(x, y, lambda cost: ot.solve(cost[0], reg=epsilon, reg_type="KL").value[None])


def pot_envelope(x: Tensor, y: Tensor, epsilon: float, tol: Setting) -> Tensor:
    """POT, the gradient by the envelope theorem."""
    return _by_hand(
        x, y, lambda cost: ot.solve(cost[0], reg=epsilon, reg_type="KL", tol=tol, grad="envelope").value[None]
    )


def pot_batch(x: Tensor, y: Tensor, epsilon: float, tol: Setting) -> Tensor:
    """POT's batched solver, the gradient by the envelope theorem."""

    def transport(cost: Tensor) -> Tensor:
        # It would record its whole loop in spite of the envelope: solved detached, and the plan made the derivative.
        fixed = cost.detach()
        solution = solve_batch(fixed, reg=epsilon, reg_type="kl", tol=tol, grad="envelope")
        return solution.value + (solution.plan * (cost - fixed)).sum((1, 2))

    return _by_hand(x, y, transport)


COMPETITORS = (
    # More turns for the two whose ratio the aims are about.
    Competitor("ours", ours, patience=3),
    Competitor("geomloss", geomloss, (0.5,), looped=True, patience=3),
    Competitor("geomloss-.9", geomloss, (0.9,), looped=True),
    Competitor("geomloss-tuned", geomloss, (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998), looped=True),
    # 256: 1,000 iterations keep 8 GB at a batch of 512.
    Competitor("pot-autodiff", pot_autodiff, batched=False, looped=True, largest=256),
    Competitor("pot-envelope", pot_envelope, (1e-5,), batched=False, looped=True),
    Competitor("pot-batch", pot_batch, (1e-5,)),
    Competitor("pot-tuned", pot_batch, (1e-3, 1e-4, 1e-5, 1e-6)),
)
BASE = COMPETITORS[1]
"""All times are also given as ratios to one call of this with one lane."""


def value_and_gradient(solve: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward: divergences ``[L]``, and the gradient in y alone, ``[L, B, k]``."""
    y = y.detach().requires_grad_()
    value = solve(x, y)
    (gradient,) = torch.autograd.grad(value.sum(), y)
    return value.detach(), gradient


def _by_hand(x: Tensor, y: Tensor, transport: Callable[[Tensor], Tensor]) -> Tensor:
    """The three problems of the divergence; transport takes costs ``[L, B, B]``, entropy against the product."""
    return transport(_cost(x, y)) - (transport(_cost(x, x)) + transport(_cost(y, y))) / 2


def _cost(x: Tensor, y: Tensor) -> Tensor:
    return x.square().sum(-1).unsqueeze(-1) / 2 + y.square().sum(-1).unsqueeze(-2) / 2 - x @ y.mT
