from __future__ import annotations

import json

import numpy as np
import pytest

from pkdray.data.dataset import write_dataset
from pkdray.data.inspect import describe


def test_regression(parts, tmp_path):
    info, samples, features = parts("regression")
    said = describe(write_dataset(tmp_path / "d", info, samples, features))
    json.dumps(said, allow_nan=False)
    val = samples[samples["split"] == "val"]["target_arousal"]
    assert said["splits"]["val"]["targets"]["arousal"] == pytest.approx(
        {"mean": val.mean(), "std": val.std(ddof=0), "min": val.min(), "max": val.max()}
    )
    assert said["splits"]["val"]["subjects"] == 2
    assert said["modalities"]["face"]["rate"] == 12.5
    assert said["modalities"]["face"]["max"] == features["face"].max()
    assert (said["samples"], said["subjects"], said["sequences"], said["folds"]) == (33, 11, 22, 4)


def test_frames_are_counted_one_by_one(parts, tmp_path):
    info, samples, features = parts(target_frames=5)
    samples["target"] = list(np.stack([samples["target"].to_numpy()] * 5, axis=1))
    said = describe(write_dataset(tmp_path / "d", info, samples, features))
    assert said["splits"]["train"]["classes"] == {"calm": 30, "glad": 30, "sad": 30}


def test_frames_without_a_label_are_counted_apart(parts, tmp_path):
    info, samples, features = parts("regression", target_frames=5)
    for column in info.target_columns:
        samples[column] = list(np.stack([samples[column].to_numpy()] * 5, axis=1) + np.arange(5.0))
    first = int(np.flatnonzero(samples["split"] == "val")[0])
    samples["target_valence"].iloc[first][1:3] = np.nan
    info = info.model_copy(update={"missing_targets": True})
    said = describe(write_dataset(tmp_path / "d", info, samples, features))
    json.dumps(said, allow_nan=False)
    val = np.stack(samples.loc[samples["split"] == "val", "target_arousal"])
    labelled = np.ones(val.shape, dtype=bool)
    labelled[0, 1:3] = False
    assert (said["splits"]["val"]["frames"], said["splits"]["val"]["unlabelled"]) == (val.size, 2)
    assert said["splits"]["train"]["unlabelled"] == 0
    assert said["splits"]["val"]["targets"]["arousal"]["mean"] == pytest.approx(val[labelled].mean())
