from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray.data.mapped import MappedArray, write_blocks, write_mapped
from pkdray.errors import DatasetError


@pytest.fixture
def faces():
    return np.random.default_rng(3).integers(0, 256, (13, 5, 7, 11, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path, faces):
    write_mapped(tmp_path / "images/face.npy", faces)
    return tmp_path / "images/face.npy"


def test_it_is_the_array_that_was_written(path, faces):
    mapped = MappedArray.open(path)
    assert mapped.shape == faces.shape
    assert mapped.dtype == np.uint8
    assert mapped.nbytes == faces.nbytes
    np.testing.assert_array_equal(mapped.gather(), faces)
    np.testing.assert_array_equal(np.load(path), faces)


def test_rows_of_rows_are_rows_of_the_file(path, faces):
    some = MappedArray.open(path)[np.array([7, 1, 1, 12])]
    assert len(some) == 4
    np.testing.assert_array_equal(some.gather(), faces[[7, 1, 1, 12]])
    np.testing.assert_array_equal(some.gather(np.array([3, 0])), faces[[12, 7]])
    np.testing.assert_array_equal(some[1:][np.array([2])].gather(), faces[[12]])


@given(st.lists(st.integers(0, 12)))
def test_any_order_and_any_repetition(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "hypothesis.npy"
    values = np.arange(26.0).reshape(13, 2)
    if not path.exists():
        write_mapped(path, values)
    np.testing.assert_array_equal(MappedArray.open(path).gather(np.array(rows, dtype=np.int64)), values[rows])


def test_what_travels_is_the_path(path, faces):
    mapped = MappedArray.open(path)[np.array([2, 5])]
    mapped.gather()
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).gather(), faces[[2, 5]])  # noqa: S301


def test_a_gathered_copy_does_not_change_the_file(path, faces):
    mapped = MappedArray.open(path)
    mapped.gather()[:] = 0
    np.testing.assert_array_equal(mapped.gather(), faces)


def test_blocks_are_the_rows_in_order(path, faces, monkeypatch):
    monkeypatch.setattr("pkdray.data.mapped._BLOCK_BYTES", 3 * faces[0].nbytes)
    blocks = list(MappedArray.open(path)[::-1].blocks())
    assert [len(block) for block in blocks] == [3, 3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), faces[::-1])


def test_a_selection_can_be_written_again(path, faces, tmp_path):
    write_mapped(tmp_path / "again.npy", MappedArray.open(path)[np.array([3, 1])])
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), faces[[3, 1]])


def test_a_truncated_or_missing_file_is_named(path):
    content = path.read_bytes()
    for kept in (0, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(DatasetError, match=r"face\.npy cannot be read as \.npy.*\n.*import again"):
            MappedArray.open(path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"face\.npy is missing"):
        MappedArray.open(path)


def test_blocks_are_written_as_they_come(tmp_path, faces):
    write_blocks(tmp_path / "face.npy", 13, iter([faces[:4], faces[4:5], faces[5:, ::1]]))
    np.testing.assert_array_equal(np.load(tmp_path / "face.npy"), faces)
    # A view that is not contiguous is written by its numbers, not by its memory.
    write_blocks(tmp_path / "turned.npy", 5, [faces.swapaxes(0, 1)])
    np.testing.assert_array_equal(MappedArray.open(tmp_path / "turned.npy").gather(), faces.swapaxes(0, 1))


@pytest.mark.parametrize(
    "cut",
    [
        lambda faces: [],
        lambda faces: [faces[:4]],
        lambda faces: [faces, faces[:1]],
        lambda faces: [faces[:4], faces[4:, :3]],
        lambda faces: [faces[:4], faces[4:].astype(np.int8)],
    ],
    ids=["none", "too few", "too many", "another shape", "another type"],
)
def test_rows_that_are_not_as_announced_leave_no_file(tmp_path, faces, cut):
    with pytest.raises(ValueError, match=r"face\.npy"):
        write_blocks(tmp_path / "face.npy", 13, cut(faces))
    assert list(tmp_path.iterdir()) == []


def test_a_process_in_another_folder_reads_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.arange(21, dtype=np.uint8).reshape(7, 3)
    write_mapped(Path("faces.npy"), values)
    sent = pickle.dumps(MappedArray.open(Path("faces.npy")))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    np.testing.assert_array_equal(pickle.loads(sent).gather(), values)  # noqa: S301  (our own)
