"""The rules about shapes: one for each kind that can be built or written, and each names what would do instead."""

from __future__ import annotations

from typing import get_args

import pytest

from pkdray.config import EncoderConfig
from pkdray.models.backbones import ENCODERS
from pkdray.models.encoder import ShapeError
from pkdray.models.shapes import DEMANDS, check_shape, fitting_kinds, shape_fault


def test_every_kind_has_a_rule():
    assert list(DEMANDS) == list(ENCODERS)
    assert set(DEMANDS) == set(get_args(EncoderConfig.model_fields["kind"].annotation))


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ((7,), ["mlp"]),
        ((5, 7), ["mlp", "gru", "tcn", "resnet18"]),
        ((5, 7, 1), ["resnet18"]),
        ((5, 7, 2), []),
        ((4, 31, 40, 3), ["r3d18", "r3d18_lstm", "resnet18"]),
        ((4, 32, 40, 3), ["vgg19_gru", "r3d18", "r3d18_lstm", "resnet18"]),
        ((4, 5, 7, 1), ["resnet18"]),
        ((2, 4, 5, 7, 3), ["r3d18", "r3d18_lstm"]),
        ((2, 4, 5, 7, 1), []),
    ],
)
def test_what_takes_a_shape(shape, kinds):
    assert fitting_kinds(shape) == kinds
    for kind in DEMANDS:
        assert (shape_fault(kind, shape) is None) == (kind in kinds)


def test_a_shape_that_nothing_takes_is_told_so():
    with pytest.raises(ShapeError, match=r"a tcn encoder needs features of shape \[T, d\], not \[5, 7, 2\]") as told:
        check_shape("tcn", (5, 7, 2))
    assert told.value.cure == "No kind takes such samples: store pictures channels last."
    check_shape("tcn", (5, 7))
