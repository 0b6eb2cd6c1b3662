"""``pkdray profile`` as a user types it, with and without data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Said

from pkdray.data.dataset import Dataset, Modality, write_dataset
from pkdray.shipped import find_yaml
from pkdray.steps.studies import amount


def test_a_ready_space_is_counted_right_after_installation(pkdray: Callable[..., Said], tmp_path: Path) -> None:
    said = pkdray("profile", "recola_pkd")
    assert said.code == 0, said.err
    assert "data/recola is not there: the shapes are those that `pkdray data import recola` makes." in said.err
    rows = {line.split("  ")[0].strip(): line.split() for line in said.out.splitlines() if "  " in line.strip()}
    assert rows["teacher joint"][2:] == ["38.3", "M", "38.3", "M", "122", "G", "4.89", "G"]
    assert rows["student"][1:] == ["26.3", "M", "26.3", "M", "122", "G", "4.88", "G"]
    assert "MACs a frame (1/25)" in said.out
    assert "The student has 68.8 % of the parameters and 99.8 % of the MACs of the teacher joint." in said.out
    assert "pkdray data import recola SRC data/recola" in said.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["biovid_pkdot", "affwild2_mtpkdot_faithful"])
def test_the_import_to_type_next_is_that_of_the_study(pkdray: Callable[..., Said], name: str) -> None:
    header = find_yaml(name).read_text(encoding="utf-8").splitlines()[1]
    said = pkdray("profile", name)
    assert said.code == 0, said.err
    assert header.removeprefix("# Make the data:").strip() == said.out.partition("Next:\n")[2].splitlines()[0].strip()


def test_json_and_set(pkdray: Callable[..., Said]) -> None:
    whole = json.loads(pkdray("profile", "biovid_pkdot", "--json").out)
    assert [one["name"] for one in whole["networks"]] == ["joint", "face", "emg", "student"]
    assert whole["shapes"] == {"face": [75, 112, 112, 3], "emg": [127, 65]}
    assert whole["target_frames"] is None
    student = whole["networks"][-1]
    # A T-Net has an encoder of its own.
    assert student["parts"]["T-Net's face encoder"]["macs"] == student["parts"]["face encoder"]["macs"]
    assert student["parts"]["T-Net's face encoder"]["trainable"] == 0
    assert student["macs"] == student["macs_per_frame"] == sum(part["macs"] for part in student["parts"].values())
    without = json.loads(pkdray("profile", "biovid_pkdot", "--set", "student.tnet.training=none", "--json").out)
    assert without["student_share"]["macs"] < 1 < whole["student_share"]["macs"]


def test_a_dataset_that_is_there_is_read(pkdray: Callable[..., Said]) -> None:
    said = pkdray("profile", "mfeat_pkdot")
    assert said.code == 0, said.err
    assert said.err == ""
    assert "A sample: fou [76], fac [216], kar [64]" in said.out
    assert "data import" not in said.out
    assert "MACs a frame" not in said.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("recola_pkd", "--set", "dataset.path=data/mine"), "There is no dataset 'data/mine'"),
        (
            ("recola_pkd", "--set", "teachers.encoders.voice.kind=r3d18"),
            "encoders.voice.kind: a r3d18 encoder",
        ),
        (("recola_pdk",), "recola_pkd"),
    ],
)
def test_a_mistake_is_named(pkdray: Callable[..., Said], arguments: tuple[str, ...], part: str) -> None:
    said = pkdray("profile", *arguments)
    assert said.code == 2
    assert part in said.err
    assert said.out == ""


def test_amounts_have_three_digits() -> None:
    said = [amount(number) for number in (0, 7, 999, 1000, 12_345, 999_500, 1_234_567, 4.88e9, 1.22e11, 1.5e12)]
    assert said == ["0", "7", "999", "1.00 k", "12.3 k", "1,000 k", "1.23 M", "4.88 G", "122 G", "1,500 G"]


STUDY = """
dataset: {path: %s, prevalent: [film], privileged: [voice]}
teachers:
  encoders: {film: {kind: resnet18, weights: weights/a.pth}}
student:
  encoders: {film: {kind: resnet18, weights: weights/b.pth}}
"""


@pytest.fixture
def filmed(small_dataset: Callable[..., Dataset], tmp_path: Path) -> Path:
    """A study whose encoders start from files that are not there."""
    dataset = small_dataset()
    film = np.zeros((len(dataset), 1, 5, 7, 3), np.uint8)
    modalities = {**dataset.info.modalities, "film": Modality(kind="images", shape=film.shape[1:])}
    features = {name: dataset.features(name) for name in dataset.info.modalities} | {"film": film}
    info = dataset.info.model_copy(update={"modalities": modalities})
    write_dataset(tmp_path / "filmed", info, dataset.samples, features)
    path = tmp_path / "film.yaml"
    path.write_text(STUDY % (tmp_path / "filmed"))
    return path


@pytest.mark.parametrize("command", ["teach", "sweep"])
def test_missing_weights_are_all_told_before_anything_is_made(
    pkdray: Callable[..., Said], filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = pkdray(command, "film.yaml")
    assert said.code == 2
    for name, where in (("a.pth", "teachers"), ("b.pth", "student")):
        assert f"{where}.encoders.film.weights: the file {tmp_path / 'weights' / name} cannot be read" in said.err
    assert "pkdray downloads nothing" in said.err
    assert not (tmp_path / "runs").exists()


def test_weights_are_no_matter_where_they_are_not_needed(pkdray: Callable[..., Said], filmed: Path) -> None:
    assert pkdray("profile", str(filmed)).code == 0
    for section in ("teachers", "student"):
        assert pkdray("profile", str(filmed), "--set", f"{section}.encoders.film.freeze=true").code == 0
