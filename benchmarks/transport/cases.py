"""The clouds: anchored similarity rows as they come up in training, from fixed seeds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pkdray.losses import Anchors, anchored_rows, similarity_matrix

WIDTH = 64
"""Size of the embeddings."""

CLASSES = 7


class Case(NamedTuple):
    """A moment of the training and an order of the anchors."""

    stage: str
    anchors: Anchors

    def __str__(self) -> str:
        return f"{self.stage}/{self.anchors.split('_')[0]}"


CASES = (
    Case("late", "least_similar"),
    Case("early", "most_similar"),
    Case("mid", "least_similar"),
    Case("random", "most_similar"),
    Case("late", "most_similar"),
    Case("early", "least_similar"),
    Case("mid", "most_similar"),
    Case("random", "least_similar"),
    Case("wrong", "least_similar"),
    Case("wrong", "most_similar"),
)
"""The first four hold every stage and both orders: enough where many lanes make a case dear."""


def clouds(case: Case, batch: int, k: int, lanes: int) -> tuple[Tensor, Tensor]:
    """Teacher rows and student rows, ``[lanes, batch, min(k, batch - 1)]`` each, float32.

    Lane l is the same whatever the count of lanes is.
    """
    pairs = [_embeddings(case.stage, batch, lane) for lane in range(lanes)]
    teacher, student = (torch.stack(side) for side in zip(*pairs, strict=True))
    return anchored_rows(similarity_matrix(teacher), similarity_matrix(student), k, case.anchors)


def _embeddings(stage: str, batch: int, lane: int) -> tuple[Tensor, Tensor]:
    """A teacher who separates seven classes, and a student who is more or less far on the way to it."""
    generator = torch.Generator().manual_seed(1000 * batch + lane)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    labels = torch.randint(CLASSES, (batch,), generator=generator)
    teacher = normal(CLASSES, WIDTH)[labels] + normal(batch, WIDTH)
    noise, centre = normal(batch, WIDTH), normal(1, WIDTH)
    student = {
        "late": teacher + 0.1 * noise,
        "mid": teacher + noise,
        # Collapsed: all rows nearly the same, whatever the sample.
        "early": centre + 0.05 * noise,
        "random": noise,
        "wrong": noise,
    }[stage]
    if stage == "wrong":
        # Tight classes, as a trained classifier has them, and a few samples in the wrong one: all of the gradient is
        # there, and the plan must carry mass between clusters that hardly reach each other.
        centres = normal(CLASSES, WIDTH)
        mistaken = torch.where(torch.arange(batch) < max(1, batch // 20), (labels + 1) % CLASSES, labels)
        teacher, student = centres[labels] + 0.1 * normal(batch, WIDTH), centres[mistaken] + 0.1 * noise
    return teacher, student
