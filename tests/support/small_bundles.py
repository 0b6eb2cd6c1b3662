"""Untrained students as folders, and features for them, for the tests of whoever reads, exports or asks one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pkdray.config import StudentConfig
from pkdray.data.normalisation import Standardizer
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
