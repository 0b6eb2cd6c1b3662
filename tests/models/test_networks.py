"""Teacher and student: shapes, independence of batch mates, the frozen T-Net, and names of all kinds."""

from __future__ import annotations

import pytest
import torch

from pkdray.config import StudentConfig, TeachersConfig
from pkdray.models.fusion import FUSIONS
from pkdray.models.networks import Adapters, Student, TaskShape, Teacher, build_tnet

VECTORS = {"face": (5,), "voice": (7,), "heart": (3,)}
SEQUENCES = {"face": (6, 5), "voice": (4, 7), "heart": (3,)}
FRAMES = {"face": (6, 5), "voice": (6, 7), "heart": (3,)}
WORLDS = [(VECTORS, False), (SEQUENCES, False), (FRAMES, True)]
# Names that a dataset may use; torch's own containers refuse a dot and the names of their methods.
ODD_NAMES = ["face.left", "keys", "type", "_modules", "train", "0", "hallucinated", "a-b_c"]


def encoders(shapes, kind: str) -> dict[str, dict[str, object]]:
    return {name: {"kind": kind if len(shape) == 2 else "mlp", "hidden": [9]} for name, shape in shapes.items()}


def teacher(shapes, *, per_frame: bool, fusion: str = "concat", kind: str = "mlp") -> Teacher:
    config = TeachersConfig.model_validate(
        {"encoder": {"dropout": 0.4}, "encoders": encoders(shapes, kind), "fusion": fusion, "embedding": 11}
    )
    return Teacher(config, shapes, TaskShape(4, per_frame))


def student(shapes, *, per_frame: bool, fusion: str = "concat", kind: str = "mlp", tnet: str = "frozen") -> Student:
    config = StudentConfig.model_validate(
        {
            "encoder": {"dropout": 0.4, "hidden": [10]},
            "encoders": encoders(shapes, kind),
            "tnet": {"training": tnet, "hidden": [8], "dropout": 0.4},
        }
    )
    task = TaskShape(4, per_frame)
    built = None if tnet == "none" else build_tnet(config, shapes, task, 12)
    return Student(config, shapes, task, fusion=fusion, embedding=11, tnet=built)


def inputs(shapes, batch: int = 8) -> dict[str, torch.Tensor]:
    return {name: torch.randn(batch, *shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["mlp", "gru", "tcn"])
@pytest.mark.parametrize(("shapes", "per_frame"), WORLDS)
def test_a_teacher_says_embedding_prediction_and_features(shapes, per_frame, kind, fusion):
    said = teacher(shapes, per_frame=per_frame, fusion=fusion, kind=kind)(inputs(shapes))
    leading = (8, 6) if per_frame else (8,)
    assert said.embedding.shape == (*leading, 11)
    assert said.prediction.shape == (*leading, 4)
    assert {name: value.shape for name, value in said.features.items()} == dict.fromkeys(shapes, (*leading, 9))


@pytest.mark.parametrize("tnet", ["none", "frozen", "joint"])
@pytest.mark.parametrize(("shapes", "per_frame"), WORLDS)
def test_a_student_says_embedding_prediction_and_what_it_hallucinates(shapes, per_frame, tnet):
    prevalent = {name: shapes[name] for name in ("face", "heart")}
    said = student(prevalent, per_frame=per_frame, tnet=tnet)(inputs(prevalent))
    leading = (8, 6) if per_frame else (8,)
    assert said.embedding.shape == (*leading, 11)
    assert said.prediction.shape == (*leading, 4)
    assert said.hallucinated.shape == ((0,) if tnet == "none" else (*leading, 12))


@pytest.mark.parametrize("kind", ["mlp", "gru", "tcn"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("shapes", "per_frame"), WORLDS)
@pytest.mark.parametrize("build", [teacher, student])
def test_a_prediction_does_not_depend_on_batch_mates(build, shapes, per_frame, fusion, kind):
    model = build(shapes, per_frame=per_frame, fusion=fusion, kind=kind).eval()
    batch = inputs(shapes)
    together = model(batch).prediction
    others = {name: values + torch.randn(()) * 50 for name, values in inputs(shapes).items()}
    for index in range(8):
        alone = model({name: values[index : index + 1] for name, values in batch.items()}).prediction
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=1e-5)
    mixed = {name: torch.cat([batch[name][:1], others[name][1:]]) for name in shapes}
    torch.testing.assert_close(model(mixed).prediction[0], together[0], rtol=1e-5, atol=1e-5)


def test_a_frozen_tnet_gets_no_gradient_and_stays_as_it_was_evaluated():
    model = student(VECTORS, per_frame=False, tnet="frozen")
    before = {name: value.clone() for name, value in model.tnet.state_dict().items()}
    assert model.train() is model
    assert model.training
    assert not any(module.training for module in model.tnet.modules())
    batch = inputs(VECTORS)
    said = model(batch)
    assert torch.equal(said.hallucinated, model(batch).hallucinated)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0)
    said.prediction.square().sum().backward()
    assert all(value.grad is None for value in model.tnet.parameters())
    assert all(value.grad is not None for name, value in model.named_parameters() if not name.startswith("tnet."))
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.tnet.state_dict().items())


def test_a_joint_tnet_trains_with_the_student():
    model = student(VECTORS, per_frame=False, tnet="joint").train()
    assert all(module.training for module in model.tnet.modules())
    batch = inputs(VECTORS)
    assert not torch.equal(model(batch).hallucinated, model(batch).hallucinated)
    model(batch).prediction.square().sum().backward()
    assert any(value.grad.abs().sum() > 0 for value in model.tnet.parameters())


def test_a_joint_tnet_hallucinates_from_the_students_features():
    model = student(VECTORS, per_frame=False, tnet="joint").eval()
    batch = inputs(VECTORS)
    features = {name: encoder(batch[name]) for name, encoder in model.encoders.items()}
    said = model(batch).hallucinated
    assert torch.equal(said, model.tnet.hallucinate(features))
    # What it regresses reaches the student's encoders: there are no others.
    said.square().sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in model.encoders.parameters() if value.grad is not None)
    assert any(value.grad is not None for value in model.encoders.parameters())


def test_evaluation_reaches_every_module_of_a_student():
    model = student(VECTORS, per_frame=False, tnet="joint").train().eval()
    assert not any(module.training for module in model.modules())


def test_adapters_work_on_a_teachers_features():
    config = TeachersConfig.model_validate({"embedding": 11, "adapters": {"hidden": [4]}})
    adapters = Adapters(config, {"face": 9, "heart": 3}, TaskShape(4, per_frame=True)).eval()
    said = adapters({"face": torch.randn(8, 6, 9), "heart": torch.randn(8, 6, 3)})
    assert {name: (e.shape, p.shape) for name, (e, p) in said.items()} == dict.fromkeys(
        ("face", "heart"), ((8, 6, 11), (8, 6, 4))
    )


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("build", [teacher, student])
def test_modalities_may_have_any_name_that_a_dataset_allows(build, fusion):
    shapes = {name: (index + 2,) for index, name in enumerate(ODD_NAMES)}
    model = build(shapes, per_frame=False, fusion=fusion).eval()
    batch = inputs(shapes)
    before = model(batch).prediction
    assert before.shape == (8, 4)
    for name in ODD_NAMES:
        assert not torch.allclose(model({**batch, name: batch[name] + 3}).prediction, before), name
    again = build(shapes, per_frame=False, fusion=fusion).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch).prediction, before)


def test_adapters_may_have_any_name_that_a_dataset_allows():
    config = TeachersConfig.model_validate({"embedding": 11})
    adapters = Adapters(config, dict.fromkeys(ODD_NAMES, 9), TaskShape(4, per_frame=False))
    said = adapters({name: torch.randn(8, 9) for name in ODD_NAMES})
    assert list(said) == ODD_NAMES
