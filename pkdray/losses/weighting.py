"""Weights between losses that are learned along with the network, in place of an alpha to be searched."""

from __future__ import annotations

from torch import Tensor

from pkdray.losses._numerics import full_precision


def uncertainty_weighting(losses: Tensor, log_variances: Tensor) -> Tensor:
    r"""Several losses under weights that are learned, each at the price of its logarithm.

    .. math::
        L = \sum_i e^{-s_i} L_i + s_i, \qquad s_i = \log \sigma_i^2

    At its minimum over s each weight is 1 / L_i, so that every loss counts in units of its own size. The price s_i is
    what makes this work. A plain alpha = sigmoid(a) in alpha L_KD + (1 - alpha) L_task is not offered: its derivative
    by a is alpha (1 - alpha) (L_KD - L_task), so that gradient descent moves all weight to whichever loss is the
    smaller number, be it the useful one or not, and there it stays.

    The factors 1/2 of the paper's Gaussian likelihoods are left out; they move s by a constant. The distribution that
    the weights amount to is :func:`effective_alpha`.

    Args:
        losses: L_i of at least 0, ``[..., n]``; float16 and bfloat16 are computed in float32. The minimum over s of a
            loss that reaches 0 is minus infinity: bound s from below where that can happen.
        log_variances: s_i, ``[n]`` or the shape of ``losses``, learned with the network; 0 is a good start. Below -88
            the weight overflows float32.

    Returns:
        ``[...]``, a scalar for one set of losses.

    Raises:
        ValueError: there are no losses, or the shapes do not fit.

    Source:
        Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses for scene geometry and
        semantics", Section 3.

    Example:
        >>> import torch
        >>> uncertainty_weighting(torch.tensor([0.5, 2.0]), torch.tensor([0.0, 0.6931]))
        tensor(2.1931)
    """
    if not losses.ndim or not losses.shape[-1]:
        raise ValueError(f"losses has shape {list(losses.shape)}. Stack at least one loss, for example [L_KD, L_task].")
    if log_variances.shape not in (losses.shape, losses.shape[-1:]):
        raise ValueError(
            f"log_variances has shape {list(log_variances.shape)} but losses has {list(losses.shape)}. "
            "Give one log variance per loss."
        )
    s = full_precision(log_variances)
    return ((-s).exp() * full_precision(losses) + s).sum(-1)


def effective_alpha(log_variances: Tensor) -> Tensor:
    r"""The share of each loss in the weights of :func:`uncertainty_weighting`, to be logged.

    .. math::
        \alpha_i = \frac{e^{-s_i}}{\sum_j e^{-s_j}}

    For the losses [L_KD, L_task] the first entry is the alpha of alpha L_KD + (1 - alpha) L_task, up to the size of the
    whole.

    Args:
        log_variances: s_i, ``[..., n]``.

    Returns:
        Same shape, in [0, 1], sums of 1 over the last dimension; float32 (float64 for float64 input).

    Raises:
        ValueError: there are no log variances.

    Source:
        The weights of Kendall, Gal and Cipolla (2018), as shares.

    Example:
        >>> import torch
        >>> effective_alpha(torch.tensor([0.0, 1.0986]))
        tensor([0.7500, 0.2500])
    """
    if not log_variances.ndim or not log_variances.shape[-1]:
        raise ValueError(f"log_variances has shape {list(log_variances.shape)}. Give at least one, [n].")
    return (-full_precision(log_variances)).softmax(-1)
