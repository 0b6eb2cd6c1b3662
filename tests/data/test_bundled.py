"""The bundled data are what their notes say; the clean training labels themselves can only be had from the source."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from pkdray.data.bundled import bundled_datasets
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.data.inspect import describe

VIEWS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}


@pytest.fixture(scope="module")
def mfeat() -> Dataset:
    return open_dataset("mfeat")


def test_every_bundled_dataset_opens_and_says_where_it_is_from():
    names = bundled_datasets()
    assert names
    for name in names:
        info = open_dataset(name).info
        assert info.name == name
        assert info.licence
        assert info.source


def test_mfeat_is_small(mfeat):
    assert sum(file.stat().st_size for file in mfeat.path.rglob("*") if file.is_file()) < 3_000_000


def test_mfeat_has_six_views_of_2000_digits(mfeat):
    assert {name: mfeat.features(name).shape for name in VIEWS} == {name: (2000, d) for name, d in VIEWS.items()}
    assert set(np.unique(mfeat.features("pix"))) == set(range(7))
    assert mfeat.info.classes == tuple("0123456789")


def test_mfeat_splits(mfeat):
    assert [len(mfeat.rows(name)) for name in ("train", "val", "test")] == [1000, 500, 500]
    for name in ("val", "test"):
        assert np.bincount(mfeat.targets()[mfeat.rows(name)]).tolist() == [50] * 10


def test_mfeat_has_no_clean_training_label_and_no_order_that_tells_one(mfeat):
    assert set(mfeat.samples) == {"sample_id", "subject_id", "sequence_id", "target", "split"}
    clean = mfeat.targets()[mfeat.rows("test")]
    neighbours = (clean[1:] == clean[:-1]).mean()
    assert neighbours < 0.2


def test_mfeat_training_labels_are_as_noisy_as_the_notes_say(mfeat):
    changed = int(re.search(r"really changed (\d+) labels", mfeat.info.notes)[1])
    # A guess among all ten classes is right once in ten: 400 * 0.9 = 360, standard deviation 6.
    assert abs(changed - 360) < 24
    # The nearest clean neighbours (97 % right on test) stand in for the clean labels.
    pix = mfeat.features("pix")
    known = np.concatenate([mfeat.rows("val"), mfeat.rows("test")])
    train = mfeat.rows("train")
    squares = (pix**2).sum(axis=1)
    distance = squares[train, None] - 2 * pix[train] @ pix[known].T + squares[known]
    guessed = mfeat.targets()[known][distance.argmin(axis=1)]
    assert (guessed != mfeat.targets()[train]).sum() == pytest.approx(changed, abs=40)
    assert np.bincount(guessed, minlength=10) == pytest.approx(np.full(10, 100), abs=12)


def test_equal_images_are_in_one_split(mfeat):
    everything = np.concatenate([mfeat.features(name) for name in VIEWS], axis=1)
    _, codes, counts = np.unique(everything, axis=0, return_inverse=True, return_counts=True)
    assert (counts == 2).sum() == 6
    assert set(mfeat.samples["split"][counts[codes.reshape(-1)] == 2]) == {"train"}


def test_describe_is_json(mfeat):
    said = json.loads(json.dumps(describe(mfeat), allow_nan=False))
    assert said["name"] == "mfeat"
    assert said["fingerprint"] == mfeat.fingerprint
    assert said["splits"]["test"]["classes"] == dict.fromkeys("0123456789", 50)
    assert said["splits"]["train"]["subjects"] == 1000
    assert said["modalities"]["pix"]["shape"] == [240]
    assert (said["modalities"]["pix"]["min"], said["modalities"]["pix"]["max"]) == (0, 6)
    assert said["bytes"] > sum(modality["bytes"] for modality in said["modalities"].values())


def test_importing_the_room_is_light():
    code = (
        "import sys, pkdray.data, pkdray.data.bundled; pkdray.data.bundled.bundled_datasets();"
        "heavy = {'pandas', 'pyarrow', 'torch', 'ray'} & set(sys.modules); assert not heavy, heavy;"
        "[getattr(pkdray.data, name) for name in pkdray.data.__all__];"
        "heavy = {'torch', 'ray'} & set(sys.modules); assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_every_exported_name_is_there():
    import pkdray.data

    assert set(pkdray.data.__all__) <= set(dir(pkdray.data))
    with pytest.raises(AttributeError, match="nothing"):
        _ = pkdray.data.nothing
