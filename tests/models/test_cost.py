"""What networks cost: closed forms layer by layer, and the paper's table for its RECOLA networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pkdray.config import EncoderConfig, StudentConfig, TeachersConfig
from pkdray.models.attention import Attention
from pkdray.models.backbones import build_encoder
from pkdray.models.cost import cost
from pkdray.models.networks import Student, TaskShape, Teacher


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5), (3, 2, 7), 3 * 2 * 7 * 5),
        (nn.Conv1d(3, 5, 4), (2, 3, 11), 2 * 8 * 5 * 3 * 4),
        (nn.Conv2d(3, 5, (2, 4), stride=2, padding=1), (2, 3, 9, 11), 2 * 5 * 5 * 5 * 3 * 2 * 4),
        (nn.Conv2d(6, 8, 3, groups=2), (1, 6, 7, 5), 5 * 3 * 8 * 3 * 9),
        (nn.Conv3d(2, 3, 3), (1, 2, 5, 6, 7), 3 * 4 * 5 * 3 * 2 * 27),
        (nn.GRU(5, 7, batch_first=True), (2, 3, 5), 6 * 3 * 7 * (5 + 7)),
        (nn.GRU(5, 7, num_layers=2, bidirectional=True), (3, 2, 5), 6 * 2 * 3 * 7 * (12 + 21)),
        (nn.LSTM(5, 7, batch_first=True), (2, 3, 5), 6 * 4 * 7 * (5 + 7)),
        (nn.LSTM(5, 7, proj_size=2), (3, 2, 5), 6 * (4 * 7 * (5 + 2) + 2 * 7)),
        (nn.RNN(5, 7), (3, 2, 5), 6 * 7 * (5 + 7)),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout()), (3, 4), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_costs_its_closed_form(layer, shape, macs, device):
    found = cost(layer.to(device), torch.zeros(shape, device=device))
    assert found.macs == macs
    assert found.parameters == sum(value.numel() for value in layer.parameters())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_costs_its_projections_and_two_products(device):
    attention = Attention(8).to(device)
    queries, context = torch.zeros(2, 3, 8, device=device), torch.zeros(2, 5, 8, device=device)
    expected = 2 * (2 * 3 + 2 * 5) * 8 * 8 + 2 * 2 * 3 * 5 * 8
    assert cost(attention, (queries, context)).macs == expected


def test_recurrent_layers_inside_a_network_count_once():
    network = build_encoder(EncoderConfig(kind="gru", hidden=[7, 9]), (4, 5), per_frame=True)
    assert cost(network, torch.zeros(2, 4, 5)).macs == 8 * 3 * (7 * (5 + 7) + 9 * (7 + 9))
    assert cost(nn.Sequential(network, nn.Linear(9, 2)), torch.zeros(1, 4, 5)).macs == 4 * (3 * (84 + 144) + 18)


def test_shared_and_frozen_parameters():
    layer = nn.Linear(7, 7)
    assert cost(nn.Sequential(layer, layer), torch.zeros(1, 7)) == (56, 56, 98)
    layer.bias.requires_grad_(False)
    assert cost(layer, torch.zeros(1, 7)) == (56, 49, 49)


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.GRU(3, 4)).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cost(network, torch.randn(5, 3))
    assert network.training
    assert network[0].training
    assert not network[1].training
    assert not network[1]._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(RuntimeError):
        cost(network, torch.randn(5, 2))
    assert network[0].training
    assert not network[1]._forward_hooks


RECOLA = {"video": (1, 112, 112, 3), "audio": (100, 64, 1)}
"""One frame with the log-mel picture of its second: 100 windows of 10 ms and 64 bins."""


@pytest.fixture(scope="module")
def recola():
    video, audio = {"kind": "vgg19_gru", "hidden": [1024]}, {"kind": "resnet18"}
    task = TaskShape(outputs=1, per_frame=True)
    with torch.device("meta"):
        teachers = {"encoders": {"video": video, "audio": audio}, "embedding": 1536}
        teacher = Teacher(TeachersConfig.model_validate(teachers), RECOLA, task)
        config = StudentConfig.model_validate({"encoders": {"video": video}})
        shapes = {"video": RECOLA["video"]}
        student = Student(config, shapes, task, fusion="concat", embedding=1536, tnet=None)
        inputs = {name: torch.zeros(1, *shape) for name, shape in RECOLA.items()}
        return teacher, student, inputs


def test_the_streams_of_the_paper_are_what_they_must_be(recola):
    teacher, _, inputs = recola
    video, audio = (cost(teacher.encoders[name], inputs[name]) for name in ("video", "audio"))
    # VGG19's convolutions; a GRU of 512 -> 1024.
    assert video.parameters == 20_024_384 + 3 * (512 * 1024 + 1024 * 1024 + 2 * 1024)
    # Every 3 x 3 convolution at its size: 112, then half after each pooling.
    widths = [(3, 64, 112), (64, 64, 112), (64, 128, 56), (128, 128, 56), (128, 256, 28), *[(256, 256, 28)] * 3]
    widths += [(256, 512, 14), *[(512, 512, 14)] * 3, *[(512, 512, 7)] * 4]
    vgg = sum(9 * inner * outer * side * side for inner, outer, side in widths)
    assert video.macs == vgg + 3 * 1024 * (512 + 1024)
    # torchvision's ResNet-18 has 11,689,512: without its classifier, and with one channel in place of three.
    assert audio.parameters == 11_689_512 - (512 * 1000 + 1000) - 2 * 64 * 49


def test_the_networks_of_the_paper_cost_what_docs_models_says(recola):
    """The paper says 39.7 M and 10.2 GMACs for the teacher, 27.8 M and 4.8 GMACs for the student (docs/models.md)."""
    teacher, student, inputs = recola
    ours = cost(teacher, inputs), cost(student, {"video": inputs["video"]})
    assert [found.parameters for found in ours] == [38_281_729, 26_325_057]
    assert [found.macs for found in ours] == [5_128_541_696, 4_883_400_192]
    # Both lack the same 1.4 to 1.5 M; what the teacher has more than the student is as in the paper.
    assert 39.7e6 - ours[0].parameters == pytest.approx(1.4e6, abs=0.1e6)
    assert 27.8e6 - ours[1].parameters == pytest.approx(1.5e6, abs=0.1e6)
    assert ours[0].parameters - ours[1].parameters == pytest.approx(39.7e6 - 27.8e6, rel=0.01)
    # The student's MACs are the paper's; the teacher's are half of it.
    assert ours[1].macs == pytest.approx(4.8e9, rel=0.02)
    assert 2 * ours[0].macs == pytest.approx(10.2e9, rel=0.01)
