"""Untrained students as folders, and features for them, for the tests of whoever reads, exports or asks one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pkdray.config import StudentConfig
from pkdray.data.info import RecordingsInfo
from pkdray.data.normalisation import Standardizer
from pkdray.models.weights import no_pretrained_weights
from pkdray.training.bundles import Architecture, StudentInfo, write_bundle

KINDS = ("one", "two", "frames")


def make_bundle(folder: Path, kind: str) -> Path:
    """An untrained student's folder with a T-Net: ``one`` or ``two`` modalities, or ``frames``, answers per frame."""
    torch.manual_seed(5)
    framed = kind == "frames"
    shapes = {
        "one": {"face": [5]},
        "two": {"face": [5], "heart.rate": [4, 3]},
        "frames": {"face": [6, 5], "mic": [6, 5]},
    }
    architecture = Architecture(
        student=StudentConfig.model_validate(
            {
                "encoder": {"kind": "gru" if framed else "mlp", "hidden": [9, 7]},
                "encoders": {"mic": {"kind": "mlp", "hidden": [4]}} if framed else {},
            }
        ),
        fusion="concat" if kind == "one" else "gated",
        embedding=11,
        shapes=shapes[kind],
        outputs=2 if framed else 3,
        per_frame=framed,
        tnet_outputs=8,
    )
    info = StudentInfo(
        task="regression" if framed else "classification",
        targets=["valence", "arousal"] if framed else ["target"],
        classes=[] if framed else ["calm", "joy", "pain"],
        architecture=architecture,
        made_from={"run": "study", "trial": 4, "dataset": "small", "metric": "accuracy", "method": {"name": "pkdot"}},
    )
    rng = np.random.default_rng(8)
    standardizers = {
        name: Standardizer(rng.normal(3, 1, shape[-1]).astype(np.float32), rng.uniform(2, 4, shape[-1]).astype("f4"))
        for name, shape in shapes[kind].items()
    }
    write_bundle(folder, architecture.build(), info, standardizers, {"trial": 4, "validation": {"accuracy": 0.625}})
    return folder


def features(kind: str, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "one": {"face": (5,)},
        "two": {"face": (5,), "heart.rate": (4, 3)},
        "frames": {"face": (6, 5), "mic": (6, 5)},
    }
    return {name: rng.normal(3, 3, (count, *shape)).astype(np.float32) for name, shape in shapes[kind].items()}


ENCODERS: dict[str, dict[str, Any]] = {
    "vgg19_gru": {"kind": "vgg19_gru", "hidden": [6]},
    "r3d18": {"kind": "r3d18"},
    "r3d18_lstm": {"kind": "r3d18_lstm", "hidden": [6]},
    "resnet18": {"kind": "resnet18"},
    "mlp": {"kind": "mlp", "hidden": [6]},
}


def make_filmed_bundle(
    folder: Path,
    shapes: Mapping[str, Sequence[int]],
    *,
    encoder: str = "resnet18",
    per_frame: bool = False,
    classes: Sequence[str] = (),
    tnet: bool = False,
    recordings: str | None = None,
    **options: Any,
) -> Path:
    """An untrained student's folder that sees a film, ``face``, and whatever else there is in ``shapes``.

    ``recordings`` names the set that its samples were cut as, with ``options`` of MediaOptions.
    """
    torch.manual_seed(11)
    architecture = Architecture(
        student=StudentConfig.model_validate(
            {"encoders": {name: ENCODERS[encoder if name == "face" else "mlp"] for name in shapes}}
        ),
        fusion="concat",
        embedding=9,
        shapes={name: list(shape) for name, shape in shapes.items()},
        outputs=len(classes) or 2,
        per_frame=per_frame,
        tnet_outputs=5 if tnet else 0,
    )
    info = StudentInfo(
        task="classification" if classes else "regression",
        targets=["target"] if classes else ["valence", "arousal"],
        classes=list(classes),
        architecture=architecture,
        made_from={"run": "films", "trial": 2, "dataset": "filmed", "metric": "accuracy" if classes else "ccc"},
    )
    rng = np.random.default_rng(8)
    standardizers = {
        name: Standardizer(rng.normal(3, 1, shape[-1]).astype(np.float32), rng.uniform(2, 4, shape[-1]).astype("f4"))
        for name, shape in shapes.items()
        if name != "face"
    }
    cut = None
    if recordings is not None:
        cut = RecordingsInfo.model_validate({"name": recordings, "options": {"modalities": [*shapes], **options}})
    with no_pretrained_weights():
        student = architecture.build()
    write_bundle(folder, student, info, standardizers, {"trial": 2, "validation": {}}, cut)
    return folder


def films(shape: Sequence[int], count: int, seed: int = 0) -> np.ndarray:
    """Random pictures, uint8 [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
