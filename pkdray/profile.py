"""What a study's networks cost, before anything is trained: parameters and multiply-accumulates, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkdray.config import Config
from pkdray.models.backbones import align_frames
from pkdray.models.cost import Cost, cost
from pkdray.models.networks import HALLUCINATED, Student, Teacher
from pkdray.models.tnet import TNet
from pkdray.models.weights import no_pretrained_weights
from pkdray.training.plan import Plan
from pkdray.training.students import fresh_student
from pkdray.training.teachers import build_adapters, build_teacher


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs for one sample.

    Args:
        name: of the teacher, or ``student``.
        modalities: that it sees.
        parts: by name, in the order of the forward pass; none of them shares parameters with another.
    """

    name: str
    modalities: tuple[str, ...]
    parts: Mapping[str, Cost]

    @property
    def total(self) -> Cost:
        """The sum of the parts."""
        return Cost(*(sum(values) for values in zip(*self.parts.values(), strict=True)))


@dataclass(frozen=True)
class Profile:
    """What the networks of a study cost.

    Args:
        teachers: of the pool, the first one first; an adapter counts with the encoder that it recycles.
        student: as the YAML has it; what a search may change about it is not in here.
        frames: targets a sample, by which the cost of a frame is that of a sample divided; 1 for one target a sample.
    """

    teachers: tuple[NetworkCost, ...]
    student: NetworkCost
    frames: int

    @property
    def share(self) -> dict[str, float]:
        """The student's part of the first teacher's ``parameters`` and ``macs``, 1 for as much."""
        own, whole = self.student.total, self.teachers[0].total
        return {"parameters": own.parameters / whole.parameters, "macs": own.macs / whole.macs}


def profile(plan: Plan) -> Profile:
    """Count the networks of a study, one sample going through each.

    They are built on the ``meta`` device, without weights and without numbers: this takes neither the memory nor the
    time of a forward pass, and counts all frames of a sample, not one of them times their number.
    """
    with torch.device("meta"), torch.no_grad(), no_pretrained_weights():
        samples = {name: _sample(plan, name) for name in plan.info.modalities}
        teachers = []
        features: dict[str, Tensor] = {}
        for member in plan.pool.values():
            if member.adapter_of is None:
                inputs = {name: samples[name] for name in member.modalities}
                parts, seen = _teacher_parts(build_teacher(plan, member).eval(), inputs)
                teachers.append(NetworkCost(member.name, member.modalities, parts))
                if member.name == plan.first_teacher:
                    features = seen
        adapters = build_adapters(plan).eval()
        for member in plan.pool.values():
            if member.adapter_of is not None:
                encoder = _encoder_part(member.name)
                adapter = cost(adapters.adapters[member.name], features[member.name])
                frozen = teachers[0].parts[encoder]._replace(trainable=0)
                recycled = {f"{encoder} of {member.adapter_of}": frozen, "adapter and head": adapter}
                teachers.append(NetworkCost(member.name, member.modalities, recycled))
    return Profile(tuple(teachers), student_cost(plan, plan.config), plan.info.target_frames or 1)


def student_cost(plan: Plan, config: Config) -> NetworkCost:
    """Count the student of a study, or of one of its trials, as ``config`` has it."""
    with torch.device("meta"), torch.no_grad(), no_pretrained_weights():
        inputs = {name: _sample(plan, name) for name in plan.prevalent}
        return NetworkCost("student", tuple(plan.prevalent), _student_parts(fresh_student(plan, config).eval(), inputs))


def _sample(plan: Plan, name: str) -> Tensor:
    """One sample of a modality, of the type that is stored."""
    modality = plan.info.modalities[name]
    return torch.empty(1, *modality.shape, dtype=torch.uint8 if modality.kind == "images" else torch.float32)


def _encoder_part(name: str) -> str:
    return f"{name} encoder"


def _teacher_parts(teacher: Teacher, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Cost], dict[str, Tensor]]:
    """The cost of each part, and the features of each modality."""
    parts = {_encoder_part(name): cost(encoder, inputs[name]) for name, encoder in teacher.encoders.items()}
    features = align_frames({name: encoder(inputs[name]) for name, encoder in teacher.encoders.items()})
    return {**parts, **_fused_parts(teacher.fusion, teacher.head, features)}, features


def _student_parts(student: Student, inputs: Mapping[str, Tensor]) -> dict[str, Cost]:
    parts = {_encoder_part(name): cost(encoder, inputs[name]) for name, encoder in student.encoders.items()}
    features = {name: encoder(inputs[name]) for name, encoder in student.encoders.items()}
    if student.tnet is not None:
        own, seen = _tnet_features(student.tnet, inputs, features)
        parts |= own
        features[HALLUCINATED] = student.tnet.hallucinate(seen)
    return {**parts, **_fused_parts(student.fusion, student.head, align_frames(features))}


def _tnet_features(
    tnet: TNet, inputs: Mapping[str, Tensor], students: Mapping[str, Tensor]
) -> tuple[dict[str, Cost], dict[str, Tensor]]:
    """The cost of each part of a T-Net, and the features that it starts from: its own encoders', or the student's."""
    parts: dict[str, Cost] = {}
    features = dict(students)
    if tnet.encoders is not None:
        parts = {
            f"T-Net's {_encoder_part(name)}": cost(encoder, inputs[name]) for name, encoder in tnet.encoders.items()
        }
        features = {name: encoder(inputs[name]) for name, encoder in tnet.encoders.items()}
    layers = nn.Sequential(tnet.layers, tnet.output)
    aligned = align_frames(dict(features))
    parts["T-Net's bottleneck"] = cost(layers, torch.cat(list(aligned.values()), dim=-1))
    return parts, features


def _fused_parts(fusion: nn.Module, head: nn.Module, features: Mapping[str, Tensor]) -> dict[str, Cost]:
    return {"fusion": cost(fusion, features), "head": cost(head, fusion(features))}
