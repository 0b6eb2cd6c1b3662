"""A student's folder: written, read back, and refused when it is not whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_bundles import KINDS, features, films, make_bundle, make_filmed_bundle

from pkdray.errors import CheckpointError
from pkdray.training.bundles import (
    read_bundle,
    read_info,
    write_info,
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_written(tmp_path: Path, kind: str):
    folder = make_bundle(tmp_path / "student", kind)
    info, pipeline, metrics = read_bundle(folder)
    assert not pipeline.training
    assert metrics == {"trial": 4, "validation": {"accuracy": 0.625}}
    assert list(info.architecture.shapes) == pipeline.modalities
    assert set(info.checksums) == {"model.safetensors", "preprocessing.yaml"}
    values = [torch.from_numpy(value) for value in features(kind, 17).values()]
    answers = pipeline(*values)
    again = read_bundle(folder)[1](*values)
    assert torch.equal(answers, again)
    assert answers.shape == ((17, 6, 2) if kind == "frames" else (17, 3))
    if kind != "frames":
        torch.testing.assert_close(answers.sum(dim=-1), torch.ones(17))


def test_the_pipeline_standardises_raw_features(tmp_path: Path):
    _, pipeline, _ = read_bundle(make_bundle(tmp_path, "one"))
    said = yaml.safe_load((tmp_path / "preprocessing.yaml").read_text(encoding="utf-8"))["modalities"]["face"]
    raw = features("one", 13)["face"]
    standard = (raw - np.float32(said["mean"])) / np.float32(said["std"])
    expected = pipeline.student({"face": torch.from_numpy(standard)}).prediction.softmax(dim=-1)
    assert torch.equal(pipeline(torch.from_numpy(raw)), expected)


FILM = {"face": (3, 33, 35, 3), "voice": (4, 5)}


def test_pictures_go_in_as_they_are_and_their_recordings_are_remembered(tmp_path: Path):
    folder = make_filmed_bundle(tmp_path, FILM, recordings="affwild2", size=71, gaps="black")
    info, pipeline, _ = read_bundle(folder)
    assert pipeline.images == ["face"]
    assert pipeline.recordings is not None
    assert pipeline.recordings.name == "affwild2"
    assert pipeline.recordings.options == {"modalities": ["face", "voice"], "size": 71, "gaps": "black"}
    said = yaml.safe_load((folder / "preprocessing.yaml").read_text(encoding="utf-8"))
    assert said["modalities"]["face"] == {"kind": "images"}
    face = torch.from_numpy(films(FILM["face"], 2))
    voice = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32))
    standard = (voice - torch.tensor(said["modalities"]["voice"]["mean"])) / torch.tensor(
        said["modalities"]["voice"]["std"]
    )
    expected = pipeline.student({"face": face, "voice": standard}).prediction
    torch.testing.assert_close(pipeline(face, voice), expected)
    assert info.architecture.shapes == {name: list(shape) for name, shape in FILM.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_older_format_is_still_read(tmp_path: Path, kind: str):
    folder = make_bundle(tmp_path, kind)
    values = [torch.from_numpy(value) for value in features(kind, 7).values()]
    expected = read_bundle(folder)[1](*values)
    path = folder / "preprocessing.yaml"
    said = yaml.safe_load(path.read_text(encoding="utf-8"))["modalities"]
    older = {name: {key: entry[key] for key in ("mean", "std")} for name, entry in said.items()}
    path.write_text(yaml.safe_dump(older), encoding="utf-8")
    write_info(folder, read_info(folder))
    _, pipeline, _ = read_bundle(folder)
    assert torch.equal(pipeline(*values), expected)
    assert pipeline.recordings is None


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        ("modalities", {"face": {"kind": "sounds"}}, "neither features nor images"),
        ("modalities", {"face": {"kind": "images"}}, "'voice' is missing"),
        ("modalities", {"face": {"kind": "images"}, "voice": {"kind": "images"}}, r"images have \[..., H, W, 3\]"),
        ("modalities", {"face": {"kind": "features", "mean": [0.0], "std": [1.0]}}, "'voice' is missing"),
        ("modalities", [3], "TypeError"),
        ("recordings", {"name": "films"}, "the recordings are"),
        ("recordings", [], "the recordings are"),
        (None, ["face"], "the preprocessing is"),
    ],
)
def test_a_preprocessing_that_means_nothing_is_refused(tmp_path: Path, entry: str | None, value: object, says: str):
    make_filmed_bundle(tmp_path, FILM, recordings="affwild2")
    path = tmp_path / "preprocessing.yaml"
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    said = value if entry is None else {**said, entry: value}
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    write_info(tmp_path, read_info(tmp_path))
    with pytest.raises(CheckpointError, match=says):
        read_bundle(tmp_path)


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _alter(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, "model.safetensors is truncated or was altered"),
        (_alter("preprocessing.yaml", "mean:", "mean: "), "preprocessing.yaml is truncated or was altered"),
        (_remove("model.safetensors"), "it has no model.safetensors"),
        (_remove("preprocessing.yaml"), "it has no preprocessing.yaml"),
        (_remove("metrics.json"), "it has no metrics.json"),
        (_remove("config.yaml"), "it has no config.yaml"),
        (_alter("metrics.json", "{", "["), "JSONDecodeError"),
        (_alter("config.yaml", "task: classification", "task: guessing"), "config.yaml: task: Input should be"),
        (_alter("config.yaml", "task: classification", "task: ["), "ParserError"),
        (_alter("config.yaml", "- joy\n", ""), "3 outputs for 2 names"),
        (_alter("config.yaml", "    - 5\n", "    - 4\n"), "'face' has shape \\[4\\] but 5 standardised channels"),
        (_alter("config.yaml", "    face:", "    voice:"), "'voice' is missing"),
        (_alter("config.yaml", "kind: mlp", "kind: gru"), "a gru encoder needs features of shape"),
        (_alter("config.yaml", "embedding: 11", "embedding: 12"), "does not fit the network"),
        (_alter("config.yaml", "fusion: concat", "fusion: glue"), "'glue' is missing"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: Callable[[Path], None], says: str):
    make_bundle(tmp_path, "one")
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_bundle(tmp_path)
    assert caught.value.cure


def test_an_impossible_standardisation_is_refused_even_with_its_checksum(tmp_path: Path):
    make_bundle(tmp_path, "one")
    path = tmp_path / "preprocessing.yaml"
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    said["modalities"]["face"]["std"][2] = 0.0
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    write_info(tmp_path, read_info(tmp_path))
    with pytest.raises(CheckpointError, match="std > 0"):
        read_bundle(tmp_path)


def test_other_files_may_be_left_behind_but_not_altered(tmp_path: Path):
    make_bundle(tmp_path, "one")
    (tmp_path / "extra.bin").write_bytes(b"graph")
    write_info(tmp_path, read_info(tmp_path), ("model.safetensors", "preprocessing.yaml", "extra.bin"))
    read_bundle(tmp_path)
    (tmp_path / "extra.bin").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"extra.bin is truncated or was altered"):
        read_bundle(tmp_path)
    (tmp_path / "extra.bin").unlink()
    read_bundle(tmp_path)


def test_config_says_what_made_it(tmp_path: Path):
    info = read_info(make_bundle(tmp_path, "frames"))
    assert info.made_from["trial"] == 4
    assert info.targets == ["valence", "arousal"]
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["trial"] == 4
