"""Checkpoints: every tensor comes back, a damaged or foreign file is told, nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pkdray.errors import CheckpointError
from pkdray.training.checkpoints import load_tensors, load_weights, save_tensors


def test_tensors_and_their_metadata_come_back(tmp_path: Path):
    base = torch.randn(7, 5)
    tensors = {"turned": base.T, "slice": base[2:4], "whole": base, "step": torch.tensor(3), "none": torch.empty(0, 4)}
    meta = {"history": [{"loss": 0.1, "best": float("nan")}], "name": "ünï"}
    save_tensors(tmp_path / "model.safetensors", tensors, meta)
    found, said = load_tensors(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert said["name"] == "ünï"
    assert said["history"][0]["loss"] == 0.1


def test_saving_leaves_no_other_file_and_replaces_the_old_one(tmp_path: Path):
    for value in (1.0, 2.0):
        save_tensors(tmp_path / "model.safetensors", {"x": torch.full((3,), value)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_tensors(tmp_path / "model.safetensors")[0]["x"].tolist() == [2.0] * 3


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"There is no .*model\.safetensors"):
        load_tensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_told(tmp_path: Path, share):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"x": torch.randn(50, 7)}, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="truncated or is no checkpoint"):
        load_tensors(path)


def test_a_pickle_is_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    torch.save({"x": torch.randn(3)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of pkdray"):
        load_tensors(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop("bias"), "Missing key"),
        (lambda weights: weights.update(more=torch.zeros(1)), "Unexpected key"),
        (lambda weights: weights.update(bias=torch.zeros(3)), r"size mismatch for bias.*\[3\].*\[4\]"),
    ],
)
def test_weights_that_do_not_fit_are_told(change, told):
    weights = nn.Linear(5, 4).state_dict()
    change(weights)
    with pytest.raises(CheckpointError, match=rf"x does not fit the network.*{told}"):
        load_weights(nn.Linear(5, 4), weights, Path("x"))
