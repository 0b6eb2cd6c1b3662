"""The two networks: a teacher that sees every modality, a student that sees the prevalent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pkdray.config import EncoderConfig, StudentConfig, TeachersConfig
from pkdray.models.backbones import align_frames, build_encoder
from pkdray.models.encoder import Inputs
from pkdray.models.fusion import build_fusion
from pkdray.models.named import NamedModules
from pkdray.models.tnet import Adapter, TNet

Shapes = Mapping[str, Sequence[int]]
HALLUCINATED = "(hallucinated)"
"""The T-Net's stream in the fusion: no modality can have this name."""


class TaskShape(NamedTuple):
    """What a prediction is: ``outputs`` logits or targets, per frame or per sample."""

    outputs: int
    per_frame: bool


class Output(NamedTuple):
    """A network's answer: ``embedding`` [B, D], ``prediction`` [B, C] (logits or targets); both [B, T, .] per frame."""

    embedding: Tensor
    prediction: Tensor


class TeacherOutput(NamedTuple):
    """An ``Output`` and the features of each modality, which T-Net and adapters learn from."""

    embedding: Tensor
    prediction: Tensor
    features: dict[str, Tensor]


class StudentOutput(NamedTuple):
    """An ``Output`` and the privileged features that the T-Net hallucinated ([B, P]; empty without a T-Net)."""

    embedding: Tensor
    prediction: Tensor
    hallucinated: Tensor


class Teacher(nn.Module):
    """One encoder a modality, fusion, and a linear head.

    Shapes: {modality: [B, d] or [B, T, d]} -> TeacherOutput.
    """

    def __init__(self, config: TeachersConfig, shapes: Shapes, task: TaskShape) -> None:
        super().__init__()
        self.encoders = _encoders(config.encoder, config.encoders, shapes, task)
        frames = _frames(shapes, task)
        self.fusion = build_fusion(config.fusion, _widths(self.encoders), config.embedding, frames=frames)
        self.dropout = nn.Dropout(config.encoder.dropout)
        self.head = nn.Linear(config.embedding, task.outputs)

    def forward(self, inputs: Inputs) -> TeacherOutput:
        """Predict a batch."""
        features = align_frames({name: encoder(inputs[name]) for name, encoder in self.encoders.items()})
        embedding = self.fusion(features)
        return TeacherOutput(embedding, self.head(self.dropout(embedding)), features)


class Adapters(nn.Module):
    """MT-PKDOT's single-modality teachers, one ``Adapter`` a modality on a frozen teacher's features.

    Shapes: {modality: [..., h_m]} -> {modality: (embedding [..., D], prediction [..., C])}.
    """

    def __init__(self, config: TeachersConfig, widths: Mapping[str, int], task: TaskShape) -> None:
        super().__init__()
        self.adapters = NamedModules(
            {
                name: Adapter(width, config.adapters.hidden, config.embedding, task.outputs, config.encoder.dropout)
                for name, width in widths.items()
            }
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Adapt every modality's features."""
        return {name: adapter(features[name]) for name, adapter in self.adapters.items()}


class Student(nn.Module):
    """Prevalent encoders, an optional T-Net, fusion of the teachers' kind, and a linear head.

    Shapes: {prevalent modality: [B, d] or [B, T, d]} -> StudentOutput. ``tnet`` may be trained beforehand; one without
    encoders of its own gets the student's features.
    """

    def __init__(
        self, config: StudentConfig, shapes: Shapes, task: TaskShape, *, fusion: str, embedding: int, tnet: TNet | None
    ) -> None:
        super().__init__()
        self.encoders = _encoders(config.encoder, config.encoders, shapes, task)
        self.tnet = tnet
        if tnet is not None and config.tnet.training == "frozen":
            tnet.requires_grad_(False)
        widths = _widths(self.encoders)
        if tnet is not None:
            widths[HALLUCINATED] = tnet.output.out_features
        self.fusion = build_fusion(fusion, widths, embedding, frames=_frames(shapes, task))
        self.dropout = nn.Dropout(config.encoder.dropout)
        self.head = nn.Linear(embedding, task.outputs)
        self._frozen_tnet = config.tnet.training == "frozen"

    def train(self, mode: bool = True) -> Student:
        """Switch dropout; a frozen T-Net stays in evaluation mode, so that its output is what it was trained to."""
        super().train(mode)
        if self.tnet is not None and self._frozen_tnet:
            self.tnet.eval()
        return self

    def forward(self, inputs: Inputs) -> StudentOutput:
        """Predict a batch from its prevalent modalities."""
        features = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        if self.tnet is not None:
            own = self.tnet.encoders is not None
            features[HALLUCINATED] = self.tnet(inputs) if own else self.tnet.hallucinate(features)
        features = align_frames(features)
        embedding = self.fusion(features)
        hallucinated = features[HALLUCINATED] if self.tnet is not None else embedding.new_empty(0)
        return StudentOutput(embedding, self.head(self.dropout(embedding)), hallucinated)


def build_tnet(config: StudentConfig, shapes: Shapes, task: TaskShape, outputs: int) -> TNet:
    """The T-Net that ``config.tnet`` describes, for ``outputs`` privileged features.

    One that trains with the student (``joint``) has no encoders: it gets the student's features.
    """
    configs = {name: config.encoders.get(name, config.encoder) for name in shapes}
    encoders = None
    if config.tnet.training != "joint":
        encoders = {
            name: build_encoder(configs[name], shape, per_frame=task.per_frame) for name, shape in shapes.items()
        }
    width = sum(encoder.hidden[-1] for encoder in configs.values())
    return TNet(width, config.tnet.hidden, outputs, config.tnet.dropout, encoders=encoders)


def privileged_features(features: Mapping[str, Tensor], prevalent: Sequence[str]) -> Tensor:
    """A teacher's features of the modalities that the student lacks, concatenated: the T-Net's target [..., P]."""
    return torch.cat([value for name, value in features.items() if name not in prevalent], dim=-1)


def _encoders(
    config: EncoderConfig, special: Mapping[str, EncoderConfig], shapes: Shapes, task: TaskShape
) -> NamedModules:
    return NamedModules(
        {
            name: build_encoder(special.get(name, config), shape, per_frame=task.per_frame)
            for name, shape in shapes.items()
        }
    )


def _widths(encoders: NamedModules) -> dict[str, int]:
    return {name: int(encoder.width) for name, encoder in encoders.items()}  # type: ignore[arg-type]


def _frames(shapes: Shapes, task: TaskShape) -> int:
    """How many frames the fused streams have: 1 where a sample is a vector, or one picture [H, W, C]."""
    if not task.per_frame:
        return 1
    return next((shape[0] for shape in shapes.values() if len(shape) not in (1, 3)), 1)
