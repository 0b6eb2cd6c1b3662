"""Who resembles whom: similarity matrices of the teacher and of the student, before and after its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pkdray.data.dataset import Dataset
from pkdray.diagnostics.spaces import spaces
from pkdray.losses.similarity import similarity_matrix
from pkdray.search.run import Run
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool


@dataclass(frozen=True)
class Similarity:
    """Similarity matrices of n validation rows, sorted by target.

    Args:
        labels: the target of each row: its class, or the number of the first target.
        teacher: [n, n], in [-1, 1]; ``before`` and ``after`` too.
        before: of the student as its training found it.
        after: of the trained student.
        teacher_name: whose ``teacher`` is.
        agreement: ``before`` and ``after``: Pearson's correlation of the student's entries off the diagonal with the
            teacher's, in [-1, 1]; NaN where either does not vary.
        total: how many rows validation has, of which n were drawn.
    """

    labels: list[str]
    teacher: np.ndarray
    before: np.ndarray
    after: np.ndarray
    teacher_name: str
    agreement: dict[str, float]
    total: int


def similarity(
    run: Run, plan: Plan, dataset: Dataset, pool: Pool, number: int, samples: int = 64, seed: int = 0
) -> Similarity:
    """Compare whom the teacher and a trial's student find alike, on at most ``samples`` validation rows.

    The matrices are those that the objective compares (`losses.similarity.similarity_matrix`): cosines of embeddings.
    The teacher is the one that taught most; of a supervised trial, the study's first.

    Raises:
        RunError: the trial did not run to its end, or has lost its weights.
        CheckpointError: the teachers' embeddings are missing or damaged.

    Source:
        PKDOT (2024), step 1.
    """
    seen = spaces(run, plan, dataset, pool, number, samples, seed)
    by_target = np.argsort(seen.order, kind="stable")
    teacher, before, after = (
        similarity_matrix(embedding[torch.as_tensor(by_target)]).double().numpy()
        for embedding in (seen.teacher, seen.before, seen.after)
    )
    return Similarity(
        labels=[target if isinstance(target, str) else f"{target:.3g}" for target in seen.targets[by_target]],
        teacher=teacher,
        before=before,
        after=after,
        teacher_name=seen.teacher_name,
        agreement={"before": agreement(before, teacher), "after": agreement(after, teacher)},
        total=seen.total,
    )


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two symmetric matrices above their diagonals; NaN where one of them does not vary.

    Example:
        >>> agreement(np.array([[1, 0, 1], [0, 1, 2], [1, 2, 1]]), np.array([[9, 1, 3], [1, 9, 5], [3, 5, 9]]))
        1.0
    """
    above = np.triu_indices(len(one), 1)
    left, right = one[above], other[above]
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(np.corrcoef(left, right)[0, 1])
