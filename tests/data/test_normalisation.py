from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pkdray.data.normalisation import Standardizer
from pkdray.errors import DatasetError

numbers = st.floats(-1e6, 1e6, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3)), elements=numbers))
def test_what_was_fitted_has_mean_0_and_std_1_or_0(values):
    z = Standardizer.fit(values).apply(values).astype(np.float64)
    assert z.shape == values.shape
    assert np.isfinite(z).all()
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    # Near a spread of float32's own precision the statistics are the rounding's.
    clear = flat.std(axis=0) > 1e-4 * (1e-30 + np.abs(flat).max(axis=0))
    z = z.reshape(-1, values.shape[-1])
    assert np.allclose(z.mean(axis=0)[clear], 0, atol=1e-2)
    assert np.allclose(z.std(axis=0)[clear], 1, atol=1e-2)


def test_only_the_rows_count_over_all_their_frames():
    values = np.random.default_rng(0).normal(3, 2, size=(17, 5, 7)).astype(np.float32)
    rows = np.array([0, 4, 9, 16])
    fitted = Standardizer.fit(values, rows)
    assert fitted.mean.shape == (7,)
    assert fitted.mean.dtype == fitted.std.dtype == np.float32
    assert np.allclose(fitted.mean, values[rows].mean(axis=(0, 1)), atol=1e-6)
    assert np.allclose(fitted.std, values[rows].std(axis=(0, 1)), atol=1e-6)


def test_blocks_give_what_one_block_gives(monkeypatch):
    values = np.random.default_rng(0).normal(size=(29, 3, 5)).astype(np.float32)
    whole = Standardizer.fit(values)
    monkeypatch.setattr("pkdray.data.normalisation._BLOCK_BYTES", 8 * 15 * 4)
    parts = Standardizer.fit(values)
    assert np.allclose(whole.mean, parts.mean)
    assert np.allclose(whole.std, parts.std)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-40])
def test_a_constant_channel_gets_std_1(value):
    values = np.full((11, 2), value, dtype=np.float32)
    fitted = Standardizer.fit(values)
    assert fitted.std.tolist() == [1, 1]
    assert np.allclose(fitted.apply(values), 0)


def test_a_large_mean_does_not_swallow_a_small_spread():
    values = np.array([[10000.0], [10000.5], [10001.0]], dtype=np.float32)
    assert np.allclose(Standardizer.fit(values).std, np.sqrt(1 / 6), rtol=1e-5)


def test_yaml_gives_back_the_same_bits():
    fitted = Standardizer.fit(np.random.default_rng(0).normal(size=(13, 7)).astype(np.float32))
    again = Standardizer.from_dict(yaml.safe_load(yaml.safe_dump(fitted.to_dict())))
    assert np.array_equal(again.mean, fitted.mean)
    assert np.array_equal(again.std, fitted.std)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"mean": [1.0]},
        {"mean": [1.0], "std": [1.0, 2.0]},
        {"mean": [1.0], "std": [0.0]},
        {"mean": ["x"], "std": [1.0]},
        {"mean": [float("nan")], "std": [1.0]},
    ],
)
def test_what_is_no_standardisation(said):
    with pytest.raises(DatasetError, match="mean"):
        Standardizer.from_dict(said)


def test_no_rows_and_wrong_channels():
    values = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(DatasetError, match="no rows"):
        Standardizer.fit(values, np.array([], dtype=np.int64))
    with pytest.raises(DatasetError, match=r"\[3, 5\].*2 channels"):
        Standardizer.fit(values).apply(np.ones((3, 5), dtype=np.float32))


def test_pictures_of_one_channel_have_one_mean_and_one_deviation():
    values = np.random.default_rng(0).normal(-14, 9, size=(13, 4, 7, 5, 1)).astype(np.float32)
    rows = np.array([0, 3, 11])
    fitted = Standardizer.fit(values, rows)
    assert fitted.mean == pytest.approx([values[rows].mean(dtype=np.float64)], rel=1e-6)
    assert fitted.std == pytest.approx([values[rows].std(dtype=np.float64)], rel=1e-6)
    assert fitted.apply(values).shape == values.shape
