"""Images as a modality: written once, mapped wherever they are read."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from pkdray.data.dataset import Modality, open_dataset, write_dataset
from pkdray.data.inspect import describe
from pkdray.data.mapped import MappedArray
from pkdray.errors import DatasetError

SHAPE = (5, 7, 11, 3)


@pytest.fixture
def with_images(parts):
    """A dataset's parts with a modality of images beside its features."""
    info, samples, features = parts()
    info = info.model_copy(update={"modalities": {**info.modalities, "video": Modality(kind="images", shape=SHAPE)}})
    values = np.random.default_rng(5).integers(0, 256, (len(samples), *SHAPE), dtype=np.uint8)
    return info, samples, {**features, "video": values}


def test_images_come_back_mapped(with_images, tmp_path):
    info, samples, features = with_images
    write_dataset(tmp_path / "d", info, samples, features)
    dataset = open_dataset(tmp_path / "d")
    video = dataset.features("video")
    assert isinstance(video, MappedArray)
    np.testing.assert_array_equal(video.gather(), features["video"])
    rows = dataset.rows("val")
    np.testing.assert_array_equal(video[rows].gather(), features["video"][rows])
    np.testing.assert_array_equal(dataset.features("face"), features["face"])


def test_images_may_come_from_another_file(with_images, tmp_path):
    info, samples, features = with_images
    np.save(tmp_path / "made.npy", features["video"])
    once = write_dataset(tmp_path / "once", info, samples, features)
    again = write_dataset(
        tmp_path / "again", info, samples, {**features, "video": MappedArray.open(tmp_path / "made.npy")}
    )
    assert once.fingerprint == again.fingerprint


def test_a_summary_names_them(with_images, tmp_path):
    said = describe(write_dataset(tmp_path / "d", *with_images))["modalities"]["video"]
    assert (said["kind"], said["shape"]) == ("images", list(SHAPE))
    assert said["bytes"] > 33 * np.prod(SHAPE)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda video: video[:-1], r"'video' is an array \[32, 5, 7, 11, 3\] of uint8.*\[33, 5, 7, 11, 3\] of uint8"),
        (lambda video: video[:, 1:], r"\[33, 4, 7, 11, 3\]"),
        (lambda video: video.astype(np.float32) / 255, r"of float32.*of uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(with_images, tmp_path, damage, said):
    info, samples, features = with_images
    with pytest.raises(DatasetError, match=said):
        write_dataset(tmp_path / "d", info, samples, {**features, "video": damage(features["video"])})
    assert not (tmp_path / "d").exists()


def test_altered_images_are_found_when_the_dataset_is_verified(with_images, tmp_path):
    write_dataset(tmp_path / "d", *with_images)
    path = tmp_path / "d/images/video.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"video\.npy is not the file that was written"):
        open_dataset(tmp_path / "d")
    path.unlink()
    with pytest.raises(DatasetError, match=r"video\.npy is missing"):
        open_dataset(tmp_path / "d", verify=False)


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [("images", (112, 112, 3), "T, H, W, 3"), ("images", (5, 7, 11, 1), "T, H, W, 3"), ("features", (2, 3, 4), "T, d")],
)
def test_a_shape_that_is_not_of_its_kind_is_refused(kind, shape, said):
    with pytest.raises(ValidationError, match=said):
        Modality(kind=kind, shape=shape)


def test_a_dataset_without_images_says_nothing_of_them(parts, tmp_path):
    write_dataset(tmp_path / "d", *parts())
    said = yaml.safe_load((tmp_path / "d/dataset.yaml").read_text())
    assert {modality["kind"] for modality in said["modalities"].values()} == {"features"}
    assert not (tmp_path / "d/images").exists()
