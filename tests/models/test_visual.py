"""Convolutional backbones: that they are torchvision's, what they see of a picture, memory, and freezing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pkdray.config import EncoderConfig
from pkdray.models.backbones import build_encoder
from pkdray.models.encoder import Steps
from pkdray.models.visual import IMAGENET, KINETICS, Backbone, as_pictures, frozen_state


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def normalised(values: torch.Tensor, statistics) -> torch.Tensor:
    """[N, ..., 3] uint8 -> [N, 3, ...] by hand."""
    mean, std = np.array(statistics[0]), np.array(statistics[1])
    return torch.from_numpy(np.moveaxis((values.numpy() / 255 - mean) / std, -1, 1).astype(np.float32))


def test_a_picture_of_uint8_is_scaled_and_normalised_and_a_float_is_not():
    mean, std = torch.tensor(IMAGENET[0]), torch.tensor(IMAGENET[1])
    values = pictures(4, 5, 7, 3)
    torch.testing.assert_close(as_pictures(values, mean, std), normalised(values, IMAGENET))
    grey = pictures(4, 5, 7, 1)
    torch.testing.assert_close(as_pictures(grey, mean, std)[:, 0], (grey[..., 0] / 255 - 0.449) / 0.226)
    assert torch.equal(as_pictures(values.float(), mean, std), values.float().movedim(-1, 1))


def test_resnet18_is_torchvisions():
    ours = build_encoder(EncoderConfig(kind="resnet18"), (2, 37, 41, 3), per_frame=True).eval()
    theirs = torchvision.models.resnet18().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.backbone.network.state_dict())
    values = pictures(3, 2, 37, 41, 3)
    with torch.no_grad():
        expected = theirs(normalised(values.flatten(0, 1), IMAGENET)).unflatten(0, (3, 2))
        torch.testing.assert_close(ours(values), expected, rtol=1e-4, atol=1e-4)


def test_r3d18_is_torchvisions():
    ours = build_encoder(EncoderConfig(kind="r3d18"), (9, 17, 19, 3), per_frame=False).eval()
    theirs = torchvision.models.video.r3d_18().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.backbone.network.state_dict())
    values = pictures(2, 9, 17, 19, 3)
    with torch.no_grad():
        torch.testing.assert_close(ours(values), theirs(normalised(values, KINETICS)), rtol=1e-4, atol=1e-4)


def test_vgg19_is_torchvisions_without_its_classifier():
    ours = build_encoder(EncoderConfig(kind="vgg19_gru", hidden=[5]), (2, 33, 65, 3), per_frame=False).eval()
    with torch.device("meta"):
        theirs = torchvision.models.vgg19(init_weights=False)
    # strict: every tensor of the features is there, under torchvision's name.
    theirs.load_state_dict({**theirs.state_dict(), **ours.backbone.network.state_dict()}, assign=True)
    values = pictures(3, 2, 33, 65, 3)
    with torch.no_grad():
        maps = theirs.features(normalised(values.flatten(0, 1), IMAGENET))
        steps = maps.mean(dim=(2, 3)).unflatten(0, (3, 2))
        torch.testing.assert_close(
            ours.backbone(values.flatten(0, 1)).unflatten(0, (3, 2)), steps, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(ours(values), ours.head.layers[0](steps)[0][:, -1], rtol=1e-4, atol=1e-5)


def test_the_convolutions_start_with_the_scale_of_he():
    # Were the layers left with torch's default, a VGG19 would shrink every picture to nothing.
    network = build_encoder(EncoderConfig(kind="vgg19_gru", hidden=[5]), (1, 64, 64, 3), per_frame=False).eval()
    with torch.no_grad():
        features = network.backbone(pictures(4, 64, 64, 3))
    assert 0.05 < features.std() < 20


def test_steps_of_a_spectrogram_are_repeated_over_their_frames():
    network = build_encoder(EncoderConfig(kind="resnet18"), (71, 13), per_frame=True).eval()
    values = torch.randn(2, 71, 13)
    with torch.no_grad():
        frames = network(values)
        maps = network.backbone.network(values.unsqueeze(1)).mean(dim=3)
    assert maps.shape == (2, 512, 3)
    for frame in range(71):
        torch.testing.assert_close(frames[:, frame], maps[:, :, frame * 3 // 71])


def test_one_channel_and_grey_pictures_of_three_agree_where_the_weights_are_summed():
    rgb = torchvision.models.resnet18().eval()
    grey = torch.randn(2, 1, 21, 19)
    summed = nn.functional.conv2d(grey, rgb.conv1.weight.sum(dim=1, keepdim=True), stride=2, padding=3)
    torch.testing.assert_close(summed, rgb.conv1(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """A small network that notes how many pictures it saw at once."""

    def __init__(self, *, normalises: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5) if normalises else nn.ReLU())
        self.seen: list[int] = []

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(values))
        return self.layers(values)


def backbone(*, normalises: bool, frozen: bool = False, chunk: int = 2) -> Backbone:
    torch.manual_seed(0)
    return Backbone(Counting(normalises=normalises), IMAGENET, averaged=(2, 3), frozen=frozen, chunk=chunk)


@pytest.mark.parametrize("normalises", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_chunks_change_no_answer_and_no_gradient(normalises, training):
    values = pictures(7, 6, 5, 3)
    found = {}
    for chunk in (2, 100):
        network = backbone(normalises=normalises, chunk=chunk).train(training)
        features = network(values)
        features.square().sum().backward()
        statistics = [value for name, value in network.named_buffers() if "running" in name]
        found[chunk] = [features.detach(), *(value.grad for value in network.parameters()), *statistics]
        chunked = chunk == 2 and not (normalises and training)
        assert max(network.network.seen) == (2 if chunked else 7)
    torch.testing.assert_close(found[2], found[100], rtol=1e-4, atol=1e-5)


def test_chunks_keep_no_activations():
    def saved(chunk: int) -> int:
        sizes: list[int] = []

        def pack(value: torch.Tensor) -> torch.Tensor:
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            backbone(normalises=False, chunk=chunk)(pictures(40, 20, 20, 3))
        return sum(sizes)

    assert saved(2) < saved(100) / 2


def test_a_frozen_backbone_stays_as_it_is():
    network = backbone(normalises=True, frozen=True).train()
    assert network.training
    assert not any(module.training for module in network.network.modules())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features = network(pictures(7, 6, 5, 3))
    assert not features.requires_grad
    assert not any(value.requires_grad for value in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert max(network.network.seen) == 2


def test_normalisation_is_no_part_of_the_weights():
    assert [name for name in backbone(normalises=False).state_dict() if not name.startswith("network.")] == []


def encoder(kind: str, shape: tuple[int, ...], *, per_frame: bool = False, freeze: bool = True):
    given = {"hidden": [7]} if kind.endswith(("gru", "lstm")) else {}
    # A copy is not validated: random weights are frozen as well as those of a file.
    config = EncoderConfig(kind=kind, dropout=0.4, **given).model_copy(update={"freeze": freeze})
    return build_encoder(config, shape, per_frame=per_frame)


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("resnet18", (2, 21, 19, 3)),
        ("resnet18", (23, 19, 3)),
        ("resnet18", (71, 13)),
        ("r3d18", (9, 17, 19, 3)),
        ("r3d18_lstm", (2, 4, 17, 19, 3)),
        ("vgg19_gru", (3, 33, 35, 3)),
    ],
)
def test_steps_give_what_the_pictures_give(kind, shape, per_frame):
    network = encoder(kind, shape, per_frame=per_frame).train()
    values = pictures(5, *shape) if len(shape) > 2 else torch.randn(5, *shape)
    steps = network.steps(values)
    assert (steps.shape[0], steps.shape[2]) == (5, 512)
    assert not steps.requires_grad
    found = {}
    for name, given in (("pictures", values), ("steps", Steps(steps))):
        torch.manual_seed(3)
        found[name] = network(given)
    assert torch.equal(found["steps"], found["pictures"])


def test_a_network_that_trains_takes_no_steps():
    network = encoder("resnet18", (2, 21, 19, 3), freeze=False)
    with pytest.raises(ValueError, match="give it the pictures"):
        network(Steps(torch.zeros(5, 2, 512)))


def test_the_frozen_part_of_a_state_is_named_as_in_it():
    parts = nn.ModuleDict({"a": encoder("resnet18", (21, 19, 3)), "b": encoder("resnet18", (21, 19, 3), freeze=False)})
    state, frozen = parts.state_dict(), frozen_state(parts)
    assert frozen.keys() == {name for name in state if name.startswith("a.backbone.network.")}
    assert "a.backbone.network.bn1.running_var" in frozen
    assert all(torch.equal(value, state[name]) for name, value in frozen.items())
    alone = backbone(normalises=True, frozen=True)
    assert frozen_state(alone).keys() == alone.state_dict().keys()
