"""Task losses: how far predictions are from the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision, weighted_mean

Dims = int | tuple[int, ...] | None


def ccc(pred: Tensor, target: Tensor, mask: Tensor | None = None, dim: Dims = None) -> Tensor:
    r"""Concordance correlation coefficient with population moments (ddof = 0).

    .. math::
        \rho_c = \frac{2\,s_{xy}}{s_x^2 + s_y^2 + (m_x - m_y)^2}

    The last dimension of a tensor with two or more dimensions holds the targets, and each target gets its own value:

    ==================== ============= ========
    input                ``dim``       result
    ==================== ============= ========
    ``[B]``              ``None``      ``[]``
    ``[N, n]``           ``None``      ``[n]``
    ``[B, T, n]``        ``None``      ``[n]``
    ``[B, T]``, frames   ``(0, 1)``    ``[]``
    ``[B, T]``, frames   ``1``         ``[B]``, one per sequence
    ``[B, T, n]``        ``1``         ``[B, n]``, one per sequence and target
    ==================== ============= ========

    A constant sequence has no slope to follow and counts as 0, also where prediction and target are the same constant:
    with a constant target every other prediction scores 0, so 0 is the value without a jump. The variances are compared
    with the rounding of their own inputs, so "constant" holds in floating point too. A group with every element masked
    counts as 0. Values and gradients are finite in all these cases.

    Args:
        pred: predictions, floating point; float16 and bfloat16 are computed in float32.
        target: labels, same shape.
        mask: boolean, True where an element counts; same shape, or one entry per row (the shape without the last
            dimension). Masked elements may be NaN.
        dim: the dimensions that the moments run over; by default all but the last (the only one of a 1-D tensor).

    Returns:
        The coefficients, in [-1, 1], shaped like ``pred`` without ``dim``.

    Raises:
        ValueError: shapes differ, the mask is not boolean or has another shape, or a tensor has no dimension.

    Source:
        Lin (1989), "A concordance correlation coefficient to evaluate reproducibility"; PKD (2023), the CCC loss.

    Example:
        >>> ccc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0]))
        tensor(0.5714)
    """
    coefficients, _ = _ccc_and_count(pred, target, mask, dim)
    return coefficients


def ccc_loss(pred: Tensor, target: Tensor, mask: Tensor | None = None, dim: Dims = None) -> Tensor:
    r"""One minus the concordance correlation coefficient, averaged over the targets.

    .. math::
        L = \frac{1}{n} \sum_{j=1}^{n} (1 - \rho_c^{(j)})

    A target (or group, with ``dim``) whose every element is masked is left out of the mean; with nothing left the loss
    is 0 and so is its gradient.

    Args:
        pred: predictions, ``[B]``, ``[N, n]`` or ``[B, T, n]``; see :func:`ccc`.
        target: labels, same shape.
        mask: boolean, as in :func:`ccc`.
        dim: the dimensions that the moments run over, as in :func:`ccc`.

    Returns:
        A scalar in [0, 2].

    Raises:
        ValueError: as :func:`ccc`.

    Source:
        PKD (2023), Eq. 4, the task term.

    Example:
        >>> ccc_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0]))
        tensor(0.4286)
    """
    coefficients, count = _ccc_and_count(pred, target, mask, dim)
    observed = (count > 0).to(coefficients.dtype)
    return (observed * (1 - coefficients)).sum() / observed.sum().clamp(min=1)


def cross_entropy_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Cross-entropy of class logits, with optional weights per row.

    .. math::
        L = \frac{1}{B} \sum_i w_i \left(-\log \mathrm{softmax}(l_i)_{y_i}\right)

    Args:
        logits: ``[..., C]``, floating point.
        target: class indices in [0, C), ``[...]``, integer.
        weight: one weight per row, ``[...]``; the sum is divided by the count of rows, so weights of 1 change nothing
            and a weight of 0 drops a row's share without raising the others'.

    Returns:
        A scalar, at least 0 for weights of at least 0.

    Raises:
        ValueError: shapes do not fit, the batch is empty or the target is not of an integer type.

    Source:
        MT-PKDOT (2024), the classification task loss.

    Example:
        >>> cross_entropy_loss(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0]))
        tensor(0.4100)
    """
    _check_classes(logits, target, weight)
    log_probability = full_precision(logits).log_softmax(-1)
    rows = -log_probability.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
    return weighted_mean(rows, weight)


def ordinal_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Cross-entropies of the C - 1 questions "is the level above k?", for ordered classes such as pain levels.

    .. math::
        L = \frac{1}{B} \sum_i w_i \sum_{k=0}^{C-2} \left(-\log \sigma\left(\pm_{ik}\, l_{ik}\right)\right),
        \qquad \pm_{ik} = \begin{cases} + & y_i > k \\ - & \text{otherwise} \end{cases}

    A prediction two levels off answers two questions wrongly and costs about twice one that is one level off, where
    :func:`cross_entropy_loss` takes all wrong levels as equally wrong. For C = 2 it is the binary cross-entropy.

    Args:
        logits: cumulative logits of P(y > k), ``[..., C - 1]``, floating point; from a head of their own, or from
            class logits by :func:`cumulative_logits`.
        target: levels in [0, C), ``[...]``, integer.
        weight: one weight per row, ``[...]``; the count of rows divides, as in :func:`cross_entropy_loss`.

    Returns:
        A scalar, at least 0 for weights of at least 0.

    Raises:
        ValueError: shapes do not fit, the batch is empty or the target is not of an integer type.

    Source:
        Cao, Mirjalili and Raschka (2020), "Rank consistent ordinal regression for neural networks" (CORAL), with
        all levels equally important.

    Example:
        >>> ordinal_loss(torch.tensor([[2.0, -2.0], [0.0, 0.0]]), torch.tensor([1, 2]))
        tensor(0.8201)
    """
    _check_classes(logits, target, weight)
    values = full_precision(logits)
    level = torch.arange(logits.shape[-1], device=logits.device)
    above = target.unsqueeze(-1) > level
    rows = -torch.nn.functional.logsigmoid(torch.where(above, values, -values)).sum(-1)
    return weighted_mean(rows, weight)


def cumulative_logits(class_logits: Tensor) -> Tensor:
    r"""The cumulative logits that a softmax classifier implies.

    .. math::
        l_k = \operatorname{logit} P(y > k) = \log \sum_{c > k} e^{z_c} - \log \sum_{c \le k} e^{z_c},
        \qquad k = 0 \dots C - 2

    They fall with k by construction, so that the probabilities P(y > k) are in order whatever the network says. Any
    classifier can be trained with :func:`ordinal_loss` in this way, with no head of another shape.

    Args:
        class_logits: z, ``[..., C]`` with C of at least 2; float16 and bfloat16 are computed in float32.

    Returns:
        ``[..., C - 1]``, float32 (float64 for float64 input).

    Raises:
        ValueError: fewer than two classes.

    Source:
        The cumulative logits of Cao, Mirjalili and Raschka (2020), written for a softmax.

    Example:
        >>> cumulative_logits(torch.tensor([0.0, 0.0, 0.0]))
        tensor([ 0.6931, -0.6931])
    """
    classes = class_logits.shape[-1] if class_logits.ndim else 0
    if classes < 2:
        raise ValueError(f"class_logits has shape {list(class_logits.shape)}. Give at least 2 ordered classes, [B, C].")
    values = full_precision(class_logits).unsqueeze(-2)
    # [C - 1, C]: classes are few, and logcumsumexp has no finite gradient beside a logit that it cannot reach.
    above = torch.ones(classes, classes, dtype=torch.bool, device=class_logits.device).triu(1)[:-1]
    over = torch.where(above, values, float("-inf")).logsumexp(-1)
    under = torch.where(above, float("-inf"), values).logsumexp(-1)
    return over - under


def ordinal_probabilities(logits: Tensor) -> Tensor:
    r"""The class probabilities that cumulative logits stand for.

    .. math::
        p_0 = \sigma(-l_0), \quad p_k = \sigma(l_{k-1}) - \sigma(l_k), \quad p_{C-1} = \sigma(l_{C-2}),
        \qquad \sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, (1 - e^{b - a})

    The product keeps its digits where both sigmoids are near 1, and their difference would not. Logits that rise with k
    contradict themselves and ask for a negative probability: it is set to 0, and the row is divided by its sum. Logits
    from :func:`cumulative_logits` never do so, and give back the softmax.

    Args:
        logits: cumulative logits of P(y > k), ``[..., C - 1]``; float16 and bfloat16 are computed in float32.

    Returns:
        ``[..., C]``, in [0, 1], rows that sum to 1; float32 (float64 for float64 input).

    Raises:
        ValueError: no logits.

    Source:
        Cao, Mirjalili and Raschka (2020), the probabilities that rank consistency makes valid.

    Example:
        >>> ordinal_probabilities(torch.tensor([0.6931, -0.6931]))
        tensor([0.3333, 0.3333, 0.3333])
    """
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits has shape {list(logits.shape)}. Give C - 1 cumulative logits, [B, C - 1].")
    values = full_precision(logits)
    higher, lower = values[..., :-1], values[..., 1:]
    between = higher.sigmoid() * (-lower).sigmoid() * -torch.expm1(-(higher - lower).clamp(min=0))
    probabilities = torch.cat([(-values[..., :1]).sigmoid(), between, values[..., -1:].sigmoid()], -1)
    # What is clamped away was negative, so that the sum is at least 1 and never too small to divide by.
    return probabilities / probabilities.sum(-1, keepdim=True)


def mse_loss(pred: Tensor, target: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    r"""Mean squared error over the observed elements, with optional weights per row.

    .. math::
        L = \frac{\sum_i w_i\, o_i\, (x_i - y_i)^2}{\sum_i o_i}

    Args:
        pred: predictions, any shape with at least one dimension.
        target: labels, same shape.
        mask: boolean o, True where an element counts; same shape, or the shape without the last dimension. Masked
            elements may be NaN. With everything masked the loss and its gradient are 0.
        weight: w, one weight per row, with the first dimensions of ``pred`` (``[B]``, or ``[B, T]`` for frames).

    Returns:
        A scalar, at least 0 for weights of at least 0.

    Raises:
        ValueError: shapes do not fit, the batch is empty or the mask is not boolean.

    Source:
        The plain regression loss; PKD (2023) compares the CCC loss with it.

    Example:
        >>> mse_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 6.0]))
        tensor(3.)
    """
    arguments.same_shape("pred", pred, "target", target)
    arguments.not_empty("pred", pred, pred.numel())
    x, y = full_precision(pred), full_precision(target)
    observed = _observed(mask, pred)
    # Masked elements are replaced before the subtraction, since 0 * NaN is NaN in the backward pass.
    squares = (torch.where(observed, x, 0) - torch.where(observed, y, 0)).square()
    if weight is not None:
        arguments.leading_shape("weight", weight, "pred", pred, dims=max(weight.ndim, 1))
        squares = squares * weight.to(squares.dtype).reshape(weight.shape + (1,) * (pred.ndim - weight.ndim))
    return squares.sum() / observed.sum().clamp(min=1)


def _check_classes(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if logits.ndim < 2 or not logits.shape[-1]:
        raise ValueError(f"logits has shape {list(logits.shape)}. Give it a row and a class dimension, [B, C].")
    arguments.leading_shape("target", target, "logits", logits)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target has dtype {target.dtype}. Pass class indices, for example target.long().")
    if weight is not None:
        arguments.leading_shape("weight", weight, "logits", logits)
    arguments.not_empty("logits", logits, target.numel())


def _observed(mask: Tensor | None, like: Tensor) -> Tensor:
    """Return the mask in the shape of ``like``; all True without one."""
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    arguments.boolean("mask", mask)
    if mask.shape == like.shape:
        return mask
    if like.ndim > 1 and mask.shape == like.shape[:-1]:
        return mask.unsqueeze(-1).expand(like.shape)
    raise ValueError(
        f"mask has shape {list(mask.shape)} but the predictions have {list(like.shape)}. "
        "Give one entry per element, or one per row (the shape without the last dimension)."
    )


def _ccc_and_count(pred: Tensor, target: Tensor, mask: Tensor | None, dim: Dims) -> tuple[Tensor, Tensor]:
    """Return the coefficients and how many elements each of them saw."""
    arguments.same_shape("pred", pred, "target", target)
    observed = _observed(mask, pred)
    dims = _reduced(dim, pred.ndim)
    # Masked elements are replaced before the arithmetic, since 0 * NaN is NaN in the backward pass.
    x = torch.where(observed, full_precision(pred), 0)
    y = torch.where(observed, full_precision(target), 0)

    count = observed.sum(dims, keepdim=True)
    divisor = count.clamp(min=1)

    def mean(value: Tensor) -> Tensor:
        return value.sum(dims, keepdim=True) / divisor

    mean_x, mean_y = mean(x), mean(y)
    # Two passes: E[x^2] - E[x]^2 cancels badly for predictions far from zero.
    dx = torch.where(observed, x - mean_x, 0)
    dy = torch.where(observed, y - mean_y, 0)
    numerator = 2 * mean(dx * dy)
    denominator = mean(dx.square()) + mean(dy.square()) + (mean_x - mean_y).square()

    # Below this the denominator is the rounding of the means: for a constant 0.1 in float32 it is near 1e-17, not 0.
    scale = (mean(x.square()) + mean(y.square())).detach()
    noise = (8 * torch.finfo(x.dtype).eps) ** 2 * scale
    # Asked this way round, NaN is not taken for a constant: a training that diverged must not look like one at rest.
    meaningful = (denominator <= noise).logical_not()
    # Both sides are replaced, so that the untaken branch of the division cannot send NaN back.
    ratio = torch.where(meaningful, numerator, 0) / torch.where(meaningful, denominator, 1)
    return ratio.sum(dims), count.sum(dims)


def _reduced(dim: Dims, ndim: int) -> tuple[int, ...]:
    """Return the dimensions that the moments run over: as asked, or all but the last one."""
    if dim is None:
        return tuple(range(ndim - 1)) if ndim > 1 else (0,)
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if not dims or any(not -ndim <= d < ndim for d in dims) or len({d % ndim for d in dims}) < len(dims):
        raise ValueError(f"dim is {dim}, for a tensor of {ndim} dimensions. Name each dimension to average over once.")
    return dims
