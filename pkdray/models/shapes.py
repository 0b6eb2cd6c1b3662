"""Which samples an encoder of each kind takes: the one list of rules, for whoever builds and for whoever plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pkdray.models.encoder import ShapeError

_SMALLEST_VGG = 32
"""VGG19 halves a picture five times."""


class Demand(NamedTuple):
    """What a kind needs, in words, and whether a shape has it."""

    needs: str
    met: Callable[[Sequence[int]], bool]


_FRAMES = Demand("features of shape [T, d]", lambda shape: len(shape) == 2)
_CLIPS = Demand("clips of shape [F, H, W, 3] or [L, F, H, W, 3]", lambda shape: len(shape) in (4, 5) and shape[-1] == 3)
DEMANDS: dict[str, Demand] = {
    "mlp": Demand("features of shape [d] or [T, d]", lambda shape: len(shape) in (1, 2)),
    "gru": _FRAMES,
    "tcn": _FRAMES,
    "vgg19_gru": Demand(
        f"frames of shape [T, H, W, 3] with H and W of at least {_SMALLEST_VGG}",
        lambda shape: len(shape) == 4 and shape[-1] == 3 and min(shape[1:3]) >= _SMALLEST_VGG,
    ),
    "r3d18": _CLIPS,
    "r3d18_lstm": _CLIPS,
    "resnet18": Demand(
        "samples of shape [T, bins], [H, W, C] or [T, H, W, C] with C = 1 or 3",
        lambda shape: len(shape) == 2 or (len(shape) in (3, 4) and shape[-1] in (1, 3)),
    ),
}
"""What each kind needs of a sample; pictures are stored channels last."""


def shape_fault(kind: str, shape: Sequence[int]) -> str | None:
    """Why an encoder of a kind cannot take samples of a shape, as a part of a sentence; None where it can.

    Example:
        >>> shape_fault("gru", [76])
        'a gru encoder needs features of shape [T, d], not [76]'
        >>> shape_fault("gru", [25, 76]) is None
        True
    """
    demand = DEMANDS[kind]
    if demand.met(shape):
        return None
    article = "an" if kind == "mlp" else "a"
    return f"{article} {kind} encoder needs {demand.needs}, not {list(shape)}"


def fitting_kinds(shape: Sequence[int]) -> list[str]:
    """The kinds that take samples of a shape.

    Example:
        >>> fitting_kinds([75, 112, 112, 3])
        ['vgg19_gru', 'r3d18', 'r3d18_lstm', 'resnet18']
    """
    return [kind for kind, demand in DEMANDS.items() if demand.met(shape)]


def check_shape(kind: str, shape: Sequence[int]) -> None:
    """Refuse a shape that an encoder of this kind cannot take.

    Raises:
        ShapeError: it cannot; names the kinds that can.
    """
    fault = shape_fault(kind, shape)
    if fault is not None:
        fitting = " or ".join(fitting_kinds(shape))
        cure = f"Choose kind {fitting}." if fitting else "No kind takes such samples: store pictures channels last."
        raise ShapeError(f"{fault}.", cure=cure)
