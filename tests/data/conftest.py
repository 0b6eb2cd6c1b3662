"""Small datasets of odd, distinct sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pkdray.data.dataset import DatasetInfo, Modality

Parts = tuple[DatasetInfo, pd.DataFrame, dict[str, np.ndarray]]

SUBJECTS = 11
EACH = 3


@pytest.fixture
def parts() -> Callable[..., Parts]:
    """Makes the parts of a dataset of 33 samples of 11 subjects: a face [5, 7] and a voice [13]."""

    def make(task: str = "classification", **changes: Any) -> Parts:
        rng = np.random.default_rng(0)
        count = SUBJECTS * EACH
        number = np.arange(count)
        subject = number // EACH
        samples = pd.DataFrame(
            {
                "sample_id": [f"{n:03d}" for n in number],
                "subject_id": [f"p{n}" for n in subject],
                "sequence_id": [f"p{n}-s{m % 2}" for n, m in zip(subject, number, strict=True)],
                "split": np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 3)[subject].tolist(),
                "fold": subject % 4,
            }
        )
        known: dict[str, Any] = {"targets": ("target",)}
        if task == "classification":
            samples["target"] = number % 3
            known["classes"] = ("calm", "glad", "sad")
        else:
            samples["target_valence"] = rng.normal(size=count).astype(np.float32)
            samples["target_arousal"] = rng.normal(size=count).astype(np.float32)
            known["targets"] = ("valence", "arousal")
        info = DatasetInfo(
            name="small",
            task=task,
            modalities={"face": Modality(shape=(5, 7), rate=12.5), "voice": Modality(shape=(13,))},
            licence="CC0",
            **{**known, **changes},
        )
        features = {
            "face": rng.normal(size=(count, 5, 7)).astype(np.float32),
            "voice": rng.normal(size=(count, 13)).astype(np.float32),
        }
        return info, samples, features

    return make


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text as a file and gives its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
