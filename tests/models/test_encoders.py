"""The conformance suite of encoders: what every kind must do, one line a kind and shape."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple, get_args

import pytest
import torch
from patience import PATIENCE_SECONDS

from pkdray.config import EncoderConfig
from pkdray.errors import ConfigError
from pkdray.models.backbones import ENCODERS, build_encoder

CASES = [
    ("mlp", (7,)),
    ("mlp", (5, 7)),
    ("gru", (5, 7)),
    ("tcn", (19, 7)),
    ("vgg19_gru", (3, 33, 37, 3)),
    ("r3d18", (9, 17, 19, 3)),
    ("r3d18", (2, 3, 17, 19, 3)),
    ("r3d18_lstm", (9, 17, 19, 3)),
    ("r3d18_lstm", (2, 3, 17, 19, 3)),
    ("resnet18", (71, 13)),
    ("resnet18", (33, 29, 1)),
    ("resnet18", (33, 29, 3)),
    ("resnet18", (5, 21, 19, 3)),
    ("resnet18", (5, 21, 19, 1)),
]
HIDDEN = {"mlp": [13, 9], "gru": [13, 9], "tcn": [13, 9], "vgg19_gru": [11], "r3d18_lstm": [13, 9]}
BATCH = 3
each_case = pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)


class Built(NamedTuple):
    """An encoder and what it is for."""

    network: torch.nn.Module
    kind: str
    shape: tuple[int, ...]
    per_frame: bool


def build(kind: str, shape: tuple[int, ...], *, per_frame: bool) -> torch.nn.Module:
    given = {"hidden": HIDDEN[kind]} if kind in HIDDEN else {}
    return build_encoder(EncoderConfig(kind=kind, dropout=0.4, **given), shape, per_frame=per_frame)


# One of a module's scope is alive at a time: an R3D-18 is slow to draw, and all of them would fill the memory.
@pytest.fixture(
    scope="module",
    params=[(*case, per_frame) for case in CASES for per_frame in (False, True)],
    ids=lambda case: f"{case[0]}-{list(case[1])}-{'frame' if case[2] else 'sample'}",
)
def built(request) -> Built:
    kind, shape, per_frame = request.param
    torch.manual_seed(0)
    return Built(build(kind, shape, per_frame=per_frame), kind, shape, per_frame)


def samples(shape: tuple[int, ...], batch: int = BATCH, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if len(shape) > 2:
        return torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8)
    return torch.randn(batch, *shape, generator=generator)


def is_vector(shape: tuple[int, ...]) -> bool:
    """A vector of features, or one picture [H, W, C]."""
    return len(shape) in (1, 3)


def test_the_features_are_a_vector_a_sample_or_a_frame(built):
    width = HIDDEN.get(built.kind, [512])[-1]
    assert built.network.width == width
    frames = (built.shape[0],) if built.per_frame and not is_vector(built.shape) else ()
    with torch.no_grad():
        assert built.network.eval()(samples(built.shape)).shape == (BATCH, *frames, width)


def test_an_answer_does_not_depend_on_batch_mates(built):
    network, values = built.network.eval(), samples(built.shape)
    with torch.no_grad():
        together = network(values)
        mixed = network(torch.cat([values[:1], samples(built.shape, BATCH - 1, seed=1)]))
        alone = torch.cat([network(value[None]) for value in values])
    assert not torch.allclose(together[0], together[1], rtol=1e-3)
    close = {"rtol": 1e-4, "atol": 1e-5 * together.abs().max().item()}
    torch.testing.assert_close(alone, together, **close)
    torch.testing.assert_close(mixed[0], together[0], **close)


def test_gradients_reach_every_parameter(built):
    network = built.network.train()
    features = network(samples(built.shape))
    (features * torch.randn_like(features)).sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []
    network.zero_grad(set_to_none=True)


def test_dropout_is_active_in_training_alone(built):
    network, values = built.network, samples(built.shape)
    with torch.no_grad():
        assert not torch.equal(network.train()(values), network(values))
        assert torch.equal(network.eval()(values), network(values))


@each_case
def test_a_state_dict_says_everything(kind, shape):
    # Whether it answers per frame makes no difference to the weights, so the two may exchange them.
    whole, frames = (build(kind, shape, per_frame=per_frame).eval() for per_frame in (False, True))
    values = samples(shape, batch=1)
    with torch.no_grad():
        whole(values)
        frames.load_state_dict(whole.state_dict())
        one, each = whole(values), frames(values)
    if is_vector(shape):
        torch.testing.assert_close(each, one)
    elif kind in ("gru", "vgg19_gru", "r3d18_lstm"):
        torch.testing.assert_close(each[:, -1], one)
    elif kind in ("mlp", "tcn") or (kind, len(shape)) in (("resnet18", 4), ("r3d18", 5)):
        torch.testing.assert_close(each.mean(dim=1), one, rtol=1e-4, atol=1e-5)
    else:
        # Repeated steps: they need not stand for as many frames each.
        torch.testing.assert_close(each.unique_consecutive(dim=1).mean(dim=1), one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("mlp", (5, 7, 3), r"\[T, d\], not \[5, 7, 3\]"),
        ("gru", (7,), r"\[T, d\], not \[7\]\.\nChoose kind mlp\."),
        ("tcn", (7,), r"\[T, d\], not \[7\]\.\nChoose kind mlp\."),
        ("tcn", (5, 7, 3, 1), "Choose kind resnet18"),
        ("vgg19_gru", (5, 31, 64, 3), r"at least 32, not \[5, 31, 64, 3\]"),
        ("vgg19_gru", (5, 64, 64, 1), r"\[T, H, W, 3\]"),
        ("vgg19_gru", (64, 64, 3), r"\[T, H, W, 3\]"),
        ("r3d18", (8, 3, 64, 64), r"\[F, H, W, 3\] or \[L, F, H, W, 3\], not \[8, 3, 64, 64\]"),
        ("r3d18_lstm", (64, 64, 3), "a r3d18_lstm encoder needs clips"),
        ("resnet18", (7,), r"\[T, bins\]"),
        ("resnet18", (3, 64, 64), r"with C = 1 or 3, not \[3, 64, 64\]"),
    ],
)
def test_a_shape_that_does_not_fit_is_told(kind, shape, message):
    with pytest.raises(ValueError, match=message) as told:
        build_encoder(EncoderConfig(kind=kind), shape, per_frame=False)
    assert isinstance(told.value, ConfigError)


def test_every_kind_of_the_config_is_built_and_tested():
    kinds = set(get_args(EncoderConfig.model_fields["kind"].annotation))
    assert kinds == set(ENCODERS) == {kind for kind, _ in CASES}


def test_torchvision_is_imported_by_those_who_need_it():
    code = """
import sys
from pkdray.config import EncoderConfig
from pkdray.models.networks import build_encoder
build_encoder(EncoderConfig(kind="tcn"), (5, 7), per_frame=False)
print("torchvision" in sys.modules)
build_encoder(EncoderConfig(kind="resnet18"), (33, 29, 3), per_frame=False)
print("torchvision" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "True"]
