"""What a study costs: parts against closed forms and against the whole networks, and the paper's table."""

from __future__ import annotations

import pytest
import torch

from pkdray.config import apply_overrides, build_config, load_config
from pkdray.data.importers.expected import expected_info
from pkdray.data.info import DatasetInfo, Modality
from pkdray.models.cost import cost
from pkdray.profile import profile
from pkdray.shipped import find_yaml
from pkdray.training.plan import plan_without_data
from pkdray.training.students import fresh_student
from pkdray.training.teachers import build_adapters, build_teacher


def test_linear_layers_cost_their_closed_form(small_dataset, plan):
    found = profile(plan(small_dataset()))
    joint, face, voice, heart = found.teachers
    assert [one.name for one in found.teachers] == ["joint", "face", "voice", "heart"]
    assert joint.modalities == ("face", "voice", "heart")
    # Encoders 5, 7 and 3 -> 9; fusion 27 -> 11; head 11 -> 4.
    assert {name: part.macs for name, part in joint.parts.items()} == {
        "face encoder": 45,
        "voice encoder": 63,
        "heart encoder": 27,
        "fusion": 297,
        "head": 44,
    }
    assert joint.total == (476 + 27 + 11 + 4, 476 + 27 + 11 + 4, 476)
    # The adapter 9 -> 4 -> 11 -> 4 learns; the encoder before it is the joint teacher's and does not.
    adapter = 36 + 44 + 44
    for one, macs in ((face, 45), (voice, 63), (heart, 27)):
        assert one.total == (macs + 9 + adapter + 19, adapter + 19, macs + adapter)
    # The T-Net 5 -> 10 -> 8 -> 18 is frozen; the student fuses 10 + 18.
    student = found.student
    assert {name: part.macs for name, part in student.parts.items()} == {
        "face encoder": 50,
        "T-Net's face encoder": 50,
        "T-Net's bottleneck": 80 + 144,
        "fusion": 308,
        "head": 44,
    }
    assert student.total == (60 + 60 + 88 + 162 + 319 + 48, 60 + 319 + 48, 676)
    assert found.frames == 1
    assert found.share == {"parameters": 737 / 518, "macs": 676 / 476}


@pytest.mark.parametrize("fusion", ["gated", "jca", "transformer", "jmt"])
@pytest.mark.parametrize("tnet", ["joint", "none"])
def test_the_parts_are_the_whole(small_dataset, plan, fusion, tnet):
    study = plan(
        small_dataset("regression", "frames"),
        {"teachers.fusion": fusion, "student.tnet.training": tnet, "student.encoder.kind": "gru"},
    )
    found = profile(study)
    assert found.frames == 6
    inputs = {name: torch.zeros(1, *study.info.modalities[name].shape) for name in study.info.modalities}
    teacher = build_teacher(study, study.pool["joint"])
    assert found.teachers[0].total == cost(teacher, inputs)
    assert found.student.total == cost(fresh_student(study, study.config), {"face": inputs["face"]})
    features = teacher.eval()(inputs).features
    adapters = cost(build_adapters(study), features)
    learnt = [one.parts["adapter and head"] for one in found.teachers[1:]]
    assert sum(one.macs for one in learnt) == adapters.macs
    assert sum(one.parameters for one in learnt) == adapters.parameters


def test_a_frozen_network_is_not_trainable_and_its_file_is_not_needed():
    info = DatasetInfo(
        name="raw",
        task="classification",
        classes=("calm", "pain"),
        modalities={"face": Modality(kind="images", shape=(2, 32, 33, 3)), "age": Modality(shape=(3,))},
    )
    config = {"name": "raw", "dataset": {"path": "raw", "prevalent": ["face"]}}
    frozen = {"kind": "resnet18", "weights": "nowhere.pth", "freeze": True}
    overrides = {
        "teachers.encoders": {"face": frozen},
        "student.encoders": {"face": {**frozen, "freeze": False}},
        "student.tnet.training": "none",
    }
    found = profile(plan_without_data(build_config(apply_overrides(config, overrides)), info))
    parts = found.teachers[0].parts["face encoder"], found.student.parts["face encoder"]
    # torchvision's ResNet-18 without its classifier.
    assert parts[0][:2] == (11_689_512 - 513_000, 0)
    assert parts[1][:2] == (11_689_512 - 513_000, 11_689_512 - 513_000)
    assert parts[0].macs == parts[1].macs


def test_recola_as_the_paper_has_it():
    study = plan_without_data(load_config(find_yaml("recola_pkd")), expected_info("recola"))
    found = profile(study)
    teacher, student = found.teachers[0], found.student
    # docs/models.md, with two outputs in place of one: 1,537 weights more.
    assert teacher.total.parameters == 38_281_729 + 1537
    assert student.total.parameters == 26_325_057 + 1537
    # Every 3 x 3 convolution at its size: 112, then half after each pooling; a GRU 512 -> 1024. All 25 frames.
    widths = [(3, 64, 112), (64, 64, 112), (64, 128, 56), (128, 128, 56), (128, 256, 28), *[(256, 256, 28)] * 3]
    widths += [(256, 512, 14), *[(512, 512, 14)] * 3, *[(512, 512, 7)] * 4]
    vgg = sum(9 * inner * outer * side * side for inner, outer, side in widths)
    assert student.parts["face encoder"].macs == 25 * (vgg + 3 * 1024 * (512 + 1024))
    assert student.total.macs == 25 * (vgg + 3 * 1024 * (512 + 1024) + 1024 * 1536 + 1536 * 2)
    assert found.frames == 25
    assert student.total.macs / found.frames == pytest.approx(4.8e9, rel=0.02)
