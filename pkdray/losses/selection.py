"""Several teachers: who teaches which sample, as weights ``[M, B]`` over a pool of M teachers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision


def select_teacher(losses: Tensor, mask: Tensor | None = None, per: Literal["batch", "sample"] = "batch") -> Tensor:
    r"""Choose the teacher with the lowest task loss, on this batch or for each sample.

    .. math::
        w_{mi} = [\,m = \arg\min_{j \in \text{mask}} \tfrac{1}{B} \sum_l L_{jl}\,] \quad \text{(batch)}, \qquad
        w_{mi} = [\,m = \arg\min_{j \in \text{mask}} L_{ji}\,] \quad \text{(sample)}

    Ties go to the first teacher of the pool. A teacher whose loss is NaN is not chosen. With nobody to choose (all
    masked, or all NaN) the weights are 0.

    Args:
        losses: the teachers' task losses per sample, ``[M, B]``, cached with their embeddings; no gradient flows here.
        mask: boolean ``[M]``, True for the teachers of the pool in use; None for all of them.
        per: ``"batch"`` (the authors' code) or ``"sample"``.

    Returns:
        Weights ``[M, B]`` of 0 and 1, float32 (float64 for float64 losses).

    Raises:
        ValueError: wrong shapes, an empty pool or batch, a mask that is not boolean, or an unknown ``per``.

    Source:
        MT-PKDOT (2024), teacher selection.

    Example:
        >>> losses = torch.tensor([[0.1, 0.9], [0.3, 0.4]])
        >>> select_teacher(losses, per="sample")
        tensor([[1., 0.],
                [0., 1.]])
        >>> select_teacher(losses, per="batch")[:, 0]
        tensor([0., 1.])
    """
    arguments.one_of("per", per, ("batch", "sample"))
    values, available = _pool(losses, mask)
    if per == "batch":
        values = values.mean(1, keepdim=True).expand_as(values)
    available = available & ~values.isnan()
    # An infinite loss is the worst of the available ones, but still better than a teacher who is not available.
    score = torch.where(available, values.clamp(max=torch.finfo(values.dtype).max), float("inf"))
    chosen = score.argmin(0)
    pool = torch.arange(values.shape[0], device=values.device).unsqueeze(1)
    return ((pool == chosen) & available).to(values.dtype)


def uniform_weights(losses: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Let every teacher of the pool in use teach every sample equally.

    .. math::
        w_{mi} = \frac{[m \in \text{mask}]}{\#\text{mask}}

    Args:
        losses: ``[M, B]``; its shape, dtype and device alone are used.
        mask: boolean ``[M]``, True for the teachers in use; None for all of them.

    Returns:
        Weights ``[M, B]`` that sum to 1 over the teachers, or all 0 with everybody masked.

    Raises:
        ValueError: wrong shapes, an empty pool or batch, or a mask that is not boolean.

    Source:
        The plain mean over teachers, the usual baseline of multi-teacher distillation.

    Example:
        >>> uniform_weights(torch.zeros(3, 2), torch.tensor([True, False, True]))[:, 0]
        tensor([0.5000, 0.0000, 0.5000])
    """
    values, available = _pool(losses, mask)
    weights = available.to(values.dtype)
    return weights / weights.sum(0, keepdim=True).clamp(min=1)


def confidence_weights(losses: Tensor, mask: Tensor | None = None, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Let the teachers teach each sample in proportion to how well they know it.

    .. math::
        w_{mi} = \frac{[m \in \text{mask}]\, e^{-L_{mi} / T}}{\sum_{j \in \text{mask}} e^{-L_{ji} / T}}

    For cross-entropies and T = 1 this is proportional to the probability that each teacher gives the true class. T to 0
    selects per sample, a large T is uniform. A NaN loss gets weight 0.

    Args:
        losses: the teachers' task losses per sample, ``[M, B]``; no gradient flows here.
        mask: boolean ``[M]``, True for the teachers in use; None for all of them.
        temperature: T > 0, a float or a 0-d tensor (the value of a tensor is not checked).

    Returns:
        Weights ``[M, B]`` that sum to 1 over the teachers, or 0 where nobody is available.

    Raises:
        ValueError: wrong shapes, an empty pool or batch, a mask that is not boolean, or a temperature not above 0.

    Source:
        After Zhang, Chen and Wang (2022), "Confidence-aware multi-teacher knowledge distillation", with a softmax of
        the negative losses.

    Example:
        >>> confidence_weights(torch.tensor([[0.0], [0.6931]])).squeeze()
        tensor([0.6667, 0.3333])
    """
    arguments.scalar("temperature", temperature)
    arguments.positive("temperature", temperature)
    values, available = _pool(losses, mask)
    available = available & ~values.isnan()
    lowest = torch.finfo(values.dtype).min
    # Half of the lowest number for the worst available loss: an unavailable teacher must stay below even that one, and
    # minus infinity everywhere would make the softmax NaN.
    logits = torch.where(available, (-values / temperature).clamp(min=lowest / 2), lowest)
    return logits.softmax(0) * available


def mix(weights: Tensor, values: Tensor) -> Tensor:
    r"""What the teachers say together: the weighted sum over the pool.

    .. math::
        z_i = \sum_m w_{mi}\, v_{mi}

    A teacher of weight 0 is left out even where its values are NaN or infinite.

    Args:
        weights: ``[M, B]``, for example from :func:`select_teacher`.
        values: ``[M, B, ...]``, the teachers' embeddings ``[M, B, D]`` or losses ``[M, B]``.

    Returns:
        ``[B, ...]``.

    Raises:
        ValueError: ``values`` does not begin with the shape of ``weights``.

    Source:
        MT-PKDOT (2024), the selected teacher's embedding, as a sum that needs no index.

    Example:
        >>> mix(torch.tensor([[1.0], [0.0]]), torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))
        tensor([[1., 2.]])
    """
    if weights.ndim != 2 or values.shape[:2] != weights.shape:
        raise ValueError(
            f"weights has shape {list(weights.shape)} and values has {list(values.shape)}. "
            "Give weights [M, B] and values [M, B, ...] of the same pool and batch."
        )
    spread = weights.reshape(weights.shape + (1,) * (values.ndim - 2))
    return (spread * torch.where(spread != 0, values, 0)).sum(0)


def _pool(losses: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the losses in full precision, without history, and who is available for each sample, ``[M, B]``."""
    if losses.ndim != 2 or 0 in losses.shape:
        raise ValueError(f"losses has shape {list(losses.shape)}. Give one row per teacher and one column per sample.")
    if mask is None:
        return full_precision(losses.detach()), torch.ones_like(losses, dtype=torch.bool)
    arguments.boolean("mask", mask)
    if mask.shape != losses.shape[:1]:
        raise ValueError(
            f"mask has shape {list(mask.shape)}, but there are {losses.shape[0]} teachers. Give one entry per teacher."
        )
    return full_precision(losses.detach()), mask.unsqueeze(1).expand_as(losses)
