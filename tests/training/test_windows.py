"""Windows of clips with a label a clip: a film of clips and a spectrogram a clip, some labels missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pkdray.config import Config
from pkdray.data.dataset import DatasetInfo, Modality, write_dataset
from pkdray.embeddings import read_embeddings
from pkdray.training.inputs import student_rows
from pkdray.training.plan import make_plan
from pkdray.training.students import predict_rows, train_student

COUNT, CLIPS = 17, 3
FILM, SOUND = (CLIPS, 4, 17, 19, 3), (CLIPS, 21, 13, 1)
QUICK = {"epochs": 1, "batch_size": 5, "checkpoint_every": 1}


@pytest.fixture
def windows(tmp_path):
    """17 windows of three clips; how bright and how loud a clip is tells its label."""
    rng = np.random.default_rng(4)
    labels = rng.uniform(-1, 1, (COUNT, CLIPS, 2)).astype(np.float32)
    bright = 120 + 80 * labels[..., :1, None, None, None]
    film = np.clip(bright + rng.normal(0, 9, (COUNT, *FILM)), 0, 255).astype(np.uint8)
    sound = (5 * labels[..., 1:, None, None] + rng.normal(size=(COUNT, *SOUND)) - 14).astype(np.float32)
    labels[2, 0] = labels[5, 1:] = labels[13, 2] = np.nan
    samples = pd.DataFrame(
        {
            "sample_id": [f"v{row:02d}" for row in range(COUNT)],
            "subject_id": [f"p{row:02d}" for row in range(COUNT)],
            "sequence_id": [f"q{row:02d}" for row in range(COUNT)],
            "target_valence": list(labels[..., 0]),
            "target_arousal": list(labels[..., 1]),
            "split": ["train"] * 11 + ["val"] * 3 + ["test"] * 3,
        }
    )
    info = DatasetInfo(
        name="windows",
        task="regression",
        targets=("valence", "arousal"),
        target_frames=CLIPS,
        missing_targets=True,
        modalities={"face": Modality(kind="images", shape=FILM), "voice": Modality(shape=SOUND)},
    )
    return write_dataset(tmp_path / "windows", info, samples, {"face": film, "voice": sound})


@pytest.mark.slow
def test_from_windows_to_a_student(windows, taught, student_arrays):
    encoders = {"face": {"kind": "r3d18"}, "voice": {"kind": "resnet18"}}
    config = Config.model_validate(
        {
            "name": "windows",
            "dataset": {"path": str(windows.path), "prevalent": ["face"]},
            "teachers": {
                "encoders": encoders,
                "fusion": "jmt",
                "embedding": 12,
                "adapters": {"enabled": False},
                "training": QUICK,
            },
            "student": {"encoders": {"face": encoders["face"]}, "tnet": {"training": "joint", "hidden": [8]}},
            "method": {"name": "pkdot", "top_k": 4},
            "training": QUICK,
        }
    )
    study = make_plan(config, windows)
    pool = taught(study, windows)
    _, said = read_embeddings(pool.embeddings("joint"))
    assert said.embedding.shape == (COUNT, CLIPS, 12)
    assert said.privileged.shape == (COUNT, CLIPS, 512)
    # The labels that are missing and, from row 14, those of the test split.
    assert np.argwhere(np.isnan(said.loss[:14])).tolist() == [[2, 0], [5, 1], [5, 2], [13, 2]]
    assert np.isnan(said.loss[14:]).all()
    arrays = student_arrays(study, windows, pool)
    fitted = train_student(study, config, arrays, seed=3)
    assert all(np.isfinite(list(epoch.values())).all() for epoch in fitted.history)
    val = student_rows(arrays["val"], ["face"], [], privileged=False)
    prediction = predict_rows(fitted.model, val, ["face"]).numpy()
    assert prediction.shape == (3, CLIPS, 2)
    target = windows.targets()[11:14]
    labelled = np.isfinite(target).all(axis=-1)
    squares = np.square(prediction - target)[labelled]
    assert fitted.best["mse"] == pytest.approx(squares.mean(), rel=1e-4)
