"""The losses as modules, for a training script of one's own: each holds hyperparameters and calls its function.

The function's docstring has the formula, the domains and the source; shapes and errors are the same. Hyperparameters
are plain attributes, checked when the module is built; what is learned is a parameter, to be handed to the optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision, without_autocast
from pkdray.losses.gate import negative_transfer_gate
from pkdray.losses.point import contrastive_loss, cosine_loss, hint_loss, kl_loss
from pkdray.losses.relational import (
    correlation_congruence_loss,
    relational_angle_loss,
    relational_distance_loss,
    similarity_preserving_loss,
)
from pkdray.losses.similarity import Anchors, centroid_loss, similarity_matrix
from pkdray.losses.task import Dims, ccc_loss, cumulative_logits, ordinal_loss
from pkdray.losses.transport import pkdot_loss, sinkhorn_divergence
from pkdray.losses.weighting import uncertainty_weighting


class _Loss(nn.Module):
    """A module that prints its hyperparameters, which are all that it holds."""

    def __init__(self) -> None:
        # nn.Module's own takes *args, and would show that as the signature of a loss without hyperparameters.
        super().__init__()

    def extra_repr(self) -> str:
        """The hyperparameters, as they are passed."""
        held = ((name, value) for name, value in vars(self).items() if name != "training" and not name.startswith("_"))
        return ", ".join(f"{name}={value!r}" for name, value in held)


class CCCLoss(_Loss):
    """One minus the concordance correlation coefficient: :func:`~pkdray.losses.ccc_loss`.

    Example:
        >>> CCCLoss()(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0]))
        tensor(0.4286)
    """

    def __init__(self, dim: Dims = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B]``, ``[N, n]`` or ``[B, T, n]`` twice, boolean mask -> scalar."""
        return ccc_loss(pred, target, mask, self.dim)


class OrdinalLoss(_Loss):
    """For ordered classes, such as pain levels, from the CLASS logits of an ordinary classifier.

    :func:`~pkdray.losses.ordinal_loss` of :func:`~pkdray.losses.cumulative_logits`. A head that gives cumulative logits
    itself calls the function.

    Example:
        >>> OrdinalLoss()(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2]))
        tensor(0.8647)
    """

    def forward(self, class_logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``[..., C]``, levels ``[...]``, weight ``[...]`` -> scalar."""
        return ordinal_loss(cumulative_logits(class_logits), target, weight)


class CosineLoss(_Loss):
    """Mean cosine distance between the rows of two embeddings: :func:`~pkdray.losses.cosine_loss`.

    Example:
        >>> CosineLoss()(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        tensor(0.5000)
    """

    def forward(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """``[..., D]`` twice, weight ``[...]`` -> scalar."""
        return cosine_loss(student, teacher, weight)


class KLLoss(_Loss):
    """Softened divergence from the teacher's class probabilities to the student's: :func:`~pkdray.losses.kl_loss`.

    Example:
        >>> KLLoss(temperature=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.4438)
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        arguments.positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None) -> Tensor:
        """``[..., C]`` twice, weight ``[...]`` -> scalar."""
        return kl_loss(student_logits, teacher_logits, self.temperature, weight)


class HintLoss(nn.Module):
    """Mean squared error between two embeddings, of different widths too: :func:`~pkdray.losses.hint_loss`.

    Where the widths differ, a linear ``regressor`` maps the student's rows to the teacher's width. It is trained along
    with the student and is of no use afterwards (Romero et al., 2015, "FitNets"). Half precision is computed in float32
    there as well.

    Args:
        student_width: D; may be left out, with ``teacher_width``, where the widths are the same.
        teacher_width: E.

    Example:
        >>> HintLoss()(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
        tensor(4.5000)
        >>> HintLoss(student_width=5, teacher_width=3)
        HintLoss(
          (regressor): Linear(in_features=5, out_features=3, bias=True)
        )
    """

    def __init__(self, student_width: int | None = None, teacher_width: int | None = None) -> None:
        super().__init__()
        widths = {"student_width": student_width, "teacher_width": teacher_width}
        for name, width in widths.items():
            if width is not None and width < 1:
                raise ValueError(f"{name} is {width}. Give the count of features, at least 1.")
        if (student_width is None) != (teacher_width is None):
            raise ValueError(
                f"student_width is {student_width} and teacher_width is {teacher_width}. "
                "Give both, or neither where the widths are the same."
            )
        self.regressor: nn.Linear | None = None
        if student_width is not None and teacher_width is not None and student_width != teacher_width:
            self.regressor = nn.Linear(student_width, teacher_width)

    def forward(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """``[..., D]``, ``[..., E]``, weight ``[...]`` -> scalar."""
        if self.regressor is not None:
            matrix, bias = full_precision(self.regressor.weight), full_precision(self.regressor.bias)
            with without_autocast(student):
                student = nn.functional.linear(full_precision(student), matrix, bias)
        return hint_loss(student, teacher, weight)


class ContrastiveLoss(_Loss):
    """InfoNCE, with the batch's other rows as the negatives: :func:`~pkdray.losses.contrastive_loss`.

    Example:
        >>> ContrastiveLoss(temperature=0.5)(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor(0.3301)
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        arguments.positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """``[..., B, D]`` twice, weight ``[..., B]`` -> scalar."""
        return contrastive_loss(student, teacher, self.temperature, weight)


class SimilarityPreservingLoss(_Loss):
    """Distance between the normalised Gram matrices: :func:`~pkdray.losses.similarity_preserving_loss`.

    Example:
        >>> SimilarityPreservingLoss()(torch.tensor([[1.0], [1.0]]), torch.eye(2))
        tensor(0.2929)
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``[..., B, D]``, ``[..., B, E]`` -> ``[...]``."""
        return similarity_preserving_loss(student, teacher)


class RelationalLoss(_Loss):
    """Relational knowledge distillation, both parts under the weights of Park et al. (2019), Section 4.2.

    ``distance_weight`` times :func:`~pkdray.losses.relational_distance_loss` plus ``angle_weight`` times
    :func:`~pkdray.losses.relational_angle_loss`. A part of weight 0 is not computed; the angles are the expensive one.

    Example:
        >>> line, triangle = torch.tensor([[0.0], [1.0], [2.0]]), torch.eye(3)
        >>> RelationalLoss(distance_weight=2.0, angle_weight=0.0)(line, triangle)
        tensor(0.1250)
    """

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        for name, value in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}. Choose a finite {name} of at least 0.")
        if not distance_weight and not angle_weight:
            raise ValueError("distance_weight and angle_weight are both 0. Choose one of them above 0.")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``[..., B, D]``, ``[..., B, E]`` -> ``[...]``."""
        parts = ((self.distance_weight, relational_distance_loss), (self.angle_weight, relational_angle_loss))
        return torch.stack([weight * part(student, teacher) for weight, part in parts if weight]).sum(0)


class CorrelationCongruenceLoss(_Loss):
    """Distance between the kernel matrices: :func:`~pkdray.losses.correlation_congruence_loss`.

    Example:
        >>> CorrelationCongruenceLoss()(torch.tensor([[1.0], [1.0]]), torch.eye(2))
        tensor(0.1266)
    """

    def __init__(self, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__()
        arguments.positive("gamma", gamma)
        if order < 1:
            raise ValueError(f"order is {order}. Choose at least 1: at 0 every kernel is the same constant.")
        self.gamma = gamma
        self.order = order

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``[..., B, D]``, ``[..., B, E]`` -> ``[...]``."""
        return correlation_congruence_loss(student, teacher, self.gamma, self.order)


class SinkhornDivergence(_Loss):
    """Debiased optimal transport between two clouds of points: :func:`~pkdray.losses.sinkhorn_divergence`.

    Example:
        >>> SinkhornDivergence(epsilon=0.1)(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(12.5000)
    """

    def __init__(self, epsilon: float, tol: float | None = None, max_iter: int | None = None) -> None:
        super().__init__()
        arguments.positive("epsilon", epsilon)
        if tol is not None:
            arguments.positive("tol", tol)
        if max_iter is not None and max_iter < 1:
            raise ValueError(f"max_iter is {max_iter}. Choose at least 1 iteration.")
        self.epsilon = epsilon
        self.tol = tol
        self.max_iter = max_iter

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[..., n, k]``, ``[..., m, k]`` -> ``[...]``."""
        return sinkhorn_divergence(x, y, self.epsilon, tol=self.tol, max_iter=self.max_iter)


class PKDOTLoss(_Loss):
    """Optimal transport between the teacher's and the student's view of a batch: :func:`~pkdray.losses.pkdot_loss`.

    The teacher is detached; the other modules leave that to the caller.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> student = torch.tensor([[1.0, 0.0], [0.5, 1.0], [1.0, 1.0]])
        >>> PKDOTLoss(epsilon=0.01, top_k=2)(student, teacher)
        tensor(0.0787)
    """

    def __init__(self, epsilon: float = 0.1, top_k: int = 30, anchors: Anchors = "least_similar") -> None:
        super().__init__()
        arguments.positive("epsilon", epsilon)
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}. Choose at least 1 anchor per row.")
        arguments.one_of("anchors", anchors, ("least_similar", "most_similar"))
        self.epsilon = epsilon
        self.top_k = top_k
        self.anchors = anchors

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``[..., B, D]``, ``[..., B, E]`` -> ``[...]``."""
        return pkdot_loss(student, teacher, epsilon=self.epsilon, top_k=self.top_k, anchors=self.anchors)


class CentroidLoss(_Loss):
    """Distance between the mean rows of the similarity matrices of two EMBEDDINGS.

    :func:`~pkdray.losses.centroid_loss` of :func:`~pkdray.losses.similarity_matrix`; the function takes the matrices.

    Example:
        >>> CentroidLoss()(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2))
        tensor(0.7071)
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``[..., B, D]``, ``[..., B, E]`` -> ``[...]``."""
        return centroid_loss(similarity_matrix(student), similarity_matrix(teacher))


class UncertaintyWeighting(nn.Module):
    """Several losses under weights that are learned: :func:`~pkdray.losses.uncertainty_weighting`.

    The parameter ``log_variances`` starts at 0, where every weight is 1. Keep it out of the weight decay, which would
    draw the weights back to 1. :func:`~pkdray.losses.effective_alpha` tells what the weights amount to.

    Args:
        losses: how many there are, at least 1.

    Example:
        >>> weighting = UncertaintyWeighting(losses=2)
        >>> weighting([torch.tensor(0.5), torch.tensor(2.0)])
        tensor(2.5000, grad_fn=<SumBackward1>)
    """

    def __init__(self, losses: int) -> None:
        super().__init__()
        if losses < 1:
            raise ValueError(f"losses is {losses}. Give the count of losses, at least 1.")
        self.log_variances = nn.Parameter(torch.zeros(losses))

    def forward(self, losses: Tensor | Sequence[Tensor]) -> Tensor:
        """``[..., n]``, or a sequence of n tensors ``[...]`` -> ``[...]``."""
        stacked = losses if isinstance(losses, Tensor) else torch.stack(tuple(losses), -1)
        return uncertainty_weighting(stacked, self.log_variances)

    def extra_repr(self) -> str:
        """The count of losses."""
        return f"losses={len(self.log_variances)}"


class NegativeTransferGate(_Loss):
    """Weights of the task loss and of the distillation loss: :func:`~pkdray.losses.negative_transfer_gate`.

    Example:
        >>> NegativeTransferGate(theta=0.5)(torch.tensor([0.3, 0.8]))
        (tensor([0.3000, 1.0000]), tensor([1., 0.]))
    """

    def __init__(self, theta: float) -> None:
        super().__init__()
        arguments.between("theta", theta, 0, 2)
        self.theta = theta

    def forward(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Any shape -> ``beta`` and ``keep``, of the same shape."""
        return negative_transfer_gate(gamma, self.theta)
