"""The negative-transfer gate: a teacher that fails on a sequence does not teach it."""

from __future__ import annotations

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision


def negative_transfer_gate(gamma: Tensor, theta: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""Weights of the task loss (beta) and of the distillation loss (keep) for each sequence.

    .. math::
        (\beta, \mathrm{keep}) = \begin{cases} (\gamma, 1) & \gamma \le \theta \\ (1, 0) & \text{otherwise} \end{cases}

    The loss of a sequence is then keep * alpha * L_distillation + beta * L_task. A NaN gamma (a teacher who was never
    scored) closes the gate.

    Args:
        gamma: the teacher's failure, any shape, in [0, 2]: see :func:`sequence_gamma` and :func:`classification_gamma`.
            It is computed once with the embeddings and is a constant here: no gradient flows to it.
        theta: threshold in [0, 2]; a float, or a tensor that broadcasts with gamma (its values are not checked).

    Returns:
        ``beta`` and ``keep``, both of gamma's shape and float32 (float64 for float64).

    Raises:
        ValueError: theta is a float outside [0, 2], or a tensor that does not broadcast to gamma's shape.

    Source:
        PKD (2023), Eqs. 5 to 7.

    Example:
        >>> negative_transfer_gate(torch.tensor([0.3, 0.8]), theta=0.5)
        (tensor([0.3000, 1.0000]), tensor([1., 0.]))
    """
    arguments.between("theta", theta, 0, 2)
    if isinstance(theta, Tensor) and not _fits(theta, gamma):
        raise ValueError(
            f"theta has shape {list(theta.shape)} but gamma has {list(gamma.shape)}. Pass a float or a 0-d tensor."
        )
    failure = full_precision(gamma.detach())
    opened = failure <= theta
    return torch.where(opened, failure, 1), opened.to(failure.dtype)


def _fits(part: Tensor, whole: Tensor) -> bool:
    """Tell whether ``part`` broadcasts to the shape of ``whole``, and not beyond it."""
    trailing = whole.shape[whole.ndim - part.ndim :] if part.ndim <= whole.ndim else ()
    return len(trailing) == part.ndim and all(p in (1, w) for p, w in zip(part.shape, trailing, strict=True))


def sequence_gamma(ccc_per_sequence: Tensor) -> Tensor:
    r"""The teacher's failure on each sequence of a regression task.

    .. math::
        \gamma = 1 - \rho_c

    Args:
        ccc_per_sequence: the teacher's CCC on each sequence, any shape, in [-1, 1]; see ``ccc(..., dim=1)``.

    Returns:
        Same shape, in [0, 2] (rounding beyond it is clamped; NaN stays NaN).

    Source:
        PKD (2023), Eq. 5.

    Example:
        >>> sequence_gamma(torch.tensor([0.75, -0.5]))
        tensor([0.2500, 1.5000])
    """
    return (1 - full_precision(ccc_per_sequence)).clamp(0, 2)


def classification_gamma(loss_per_sample: Tensor) -> Tensor:
    r"""The teacher's failure on each sample of a classification task.

    .. math::
        \gamma = 1 - e^{-L} = 1 - p_{\text{true class}}

    A cross-entropy has no upper bound, so it is mapped to the probability that the teacher withheld from the true
    class: 0 for a sure and right teacher, 1 for a sure and wrong one, 1 - 1/C for one who guesses among C classes.

    Args:
        loss_per_sample: the teacher's cross-entropy, in nats, any shape, at least 0.

    Returns:
        Same shape, in [0, 1] (rounding below 0 is clamped; NaN stays NaN).

    Source:
        The counterpart of PKD (2023), Eq. 5, for class labels.

    Example:
        >>> classification_gamma(torch.tensor([0.0, 0.6931]))
        tensor([0.0000, 0.5000])
    """
    return -torch.expm1(-full_precision(loss_per_sample).clamp(min=0))
