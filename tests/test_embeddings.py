"""Frozen embeddings: what is written is read, what is handed out is a copy, what is shared is checked."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from pkdray.data.mapped import MappedArray
from pkdray.embeddings import Rows, SharedArrays, TeacherEmbeddings, read_embeddings, write_embeddings
from pkdray.errors import CheckpointError, StorageError

FIELDS = ("embedding", "prediction", "loss", "gamma", "privileged")
IDS = ["plain", "with space", "ünï", "s/3", ""]


def said(steps: tuple[int, ...] = (), privileged: int = 3) -> TeacherEmbeddings:
    rng = np.random.default_rng(7)

    def values(*shape: int) -> np.ndarray:
        return rng.normal(size=(5, *steps, *shape)).astype(np.float32)

    embeddings = TeacherEmbeddings(values(7), values(4), values(), values(), values(privileged))
    embeddings.loss[3] = np.nan
    embeddings.gamma[3] = np.nan
    return embeddings


@pytest.mark.parametrize("privileged", [3, 1, 0])
@pytest.mark.parametrize("steps", [(), (6,), (1,)])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, steps, privileged):
    written = said(steps, privileged)
    write_embeddings(tmp_path / "joint.parquet", IDS, written)
    ids, read = read_embeddings(tmp_path / "joint.parquet")
    assert ids == IDS
    for field in FIELDS:
        before, after = getattr(written, field), getattr(read, field)
        assert after.shape == before.shape, field
        assert after.dtype == np.float32
        np.testing.assert_array_equal(after, before, err_msg=field)


def test_arrays_of_any_layout_and_precision_are_stored_as_float32(tmp_path: Path):
    rng = np.random.default_rng(7)
    turned = rng.normal(size=(7, 5)).T
    written = said()
    odd = TeacherEmbeddings(turned, written.prediction[:, ::2], *(getattr(written, name) for name in FIELDS[2:]))
    write_embeddings(tmp_path / "joint.parquet", IDS, odd)
    _, read = read_embeddings(tmp_path / "joint.parquet")
    np.testing.assert_array_equal(read.embedding, turned.astype(np.float32))
    np.testing.assert_array_equal(read.prediction, written.prediction[:, ::2])


def test_take_gives_the_samples_in_the_order_asked_for():
    embeddings = said((6,))
    taken = embeddings.take(np.array([4, 0, 4]))
    assert len(taken) == 3
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(taken, field), getattr(embeddings, field)[[4, 0, 4]])


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"joint\.parquet holds no embeddings"):
        read_embeddings(tmp_path / "joint.parquet")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_told(tmp_path: Path, share):
    path = tmp_path / "joint.parquet"
    write_embeddings(path, IDS, said())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"joint\.parquet holds no embeddings") as caught:
        read_embeddings(path)
    assert "pkdray embed" in str(caught.value)


@pytest.mark.parametrize("lacking", ["sample_id", "embedding", "prediction", "loss", "gamma"])
def test_a_file_without_one_of_the_columns_is_told(tmp_path: Path, lacking):
    path = tmp_path / "joint.parquet"
    write_embeddings(path, IDS, said())
    pq.write_table(pq.read_table(path).drop_columns([lacking]), path)
    with pytest.raises(CheckpointError, match=lacking):
        read_embeddings(path)


def test_a_foreign_table_is_told(tmp_path: Path):
    path = tmp_path / "joint.parquet"
    pq.write_table(pa.table({"sample_id": ["a"], "embedding": [[1.0, 2.0]]}), path)
    with pytest.raises(CheckpointError, match="holds no embeddings"):
        read_embeddings(path)


def test_rows_hands_out_copies_of_what_may_not_be_written():
    base = np.arange(35, dtype=np.float32).reshape(5, 7)
    kept = base.copy()
    base.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = Rows({"input.face": base, "target": np.arange(5)})
    for indices in (torch.tensor([3, 0, 3]), torch.arange(5)):
        taken = rows.take(indices)
        np.testing.assert_array_equal(taken["input.face"].numpy(), kept[indices.numpy()])
        assert taken["target"].dtype == torch.int64
        taken["input.face"].fill_(-1)
        taken["target"].fill_(-1)
        np.testing.assert_array_equal(base, kept)
        np.testing.assert_array_equal(rows.take(indices)["input.face"].numpy(), kept[indices.numpy()])


def test_rows_knows_its_length_and_its_names():
    rows = Rows({"input.face": np.zeros((5, 7), np.float32), "target": np.zeros(5, np.int64)})
    assert len(rows) == 5
    assert "target" in rows
    assert "input.voice" not in rows


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"different lengths: {'face': 5, 'target': 4}"):
        Rows({"face": np.zeros((5, 7), np.float32), "target": np.zeros(4, np.int64)})


@pytest.fixture
def arrays() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(11)
    return {
        "train": {
            "input.face": rng.normal(size=(17, 3, 5)).astype(np.float32),
            "target": rng.integers(0, 4, 17),
            "privileged": np.empty((17, 0), np.float32),
            "turned": rng.normal(size=(7, 17)).astype(np.float32).T,
        },
        "val": {"target": rng.integers(0, 4, 5), "joint.gamma": np.full(5, np.nan, np.float32)},
    }


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
class TestSharedArrays:
    def test_what_is_put_is_got(self, arrays):
        got = SharedArrays.put(arrays).get()
        assert {split: list(named) for split, named in got.items()} == {
            split: list(named) for split, named in arrays.items()
        }
        for split, named in arrays.items():
            for name, array in named.items():
                assert got[split][name].dtype == array.dtype
                np.testing.assert_array_equal(got[split][name], array)

    def test_getting_maps_the_store_and_copies_nothing(self, arrays):
        shared = SharedArrays.put(arrays)
        once, again = shared.get()["train"]["input.face"], shared.get()["train"]["input.face"]
        assert not once.flags.writeable
        assert not once.flags.owndata
        assert np.shares_memory(once, again)
        assert not np.shares_memory(once, arrays["train"]["input.face"])
        with pytest.raises(ValueError, match="read-only"):
            once[0] = 0

    def test_nbytes_counts_every_array(self, arrays):
        expected = 17 * 3 * 5 * 4 + 17 * 8 + 0 + 17 * 7 * 4 + 5 * 8 + 5 * 4
        assert SharedArrays.put(arrays).nbytes() == expected

    def test_training_on_them_leaves_them_whole(self, arrays):
        shared = SharedArrays.put(arrays)
        rows = Rows(shared.get()["train"])
        rows.take(torch.arange(17))["input.face"].zero_()
        shared.verify()
        np.testing.assert_array_equal(shared.get()["train"]["input.face"], arrays["train"]["input.face"])

    def test_verify_names_the_array_that_was_written(self, arrays):
        shared = SharedArrays.put(arrays)
        shared.verify()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(shared.get()["train"]["input.face"])[16, 2, 4] += 1e-3
        with pytest.raises(StorageError, match=r"altered during the sweep: train/input\.face\.") as caught:
            shared.verify()
        assert "cannot be trusted" in str(caught.value)

    def test_what_is_lost_is_read_again_once_and_as_it_was(self, arrays, monkeypatch, caplog):
        reads: list[int] = []
        changed = {split: {name: array.copy() for name, array in named.items()} for split, named in arrays.items()}
        changed["val"]["target"][3] += 1
        shared = SharedArrays.put(arrays, lambda: reads.append(1) or arrays)
        other = SharedArrays.put(arrays, lambda: changed)
        hopeless = SharedArrays.put(arrays)

        def lost(_references):
            raise ray.exceptions.OwnerDiedError("0" * 56, None, "")

        monkeypatch.setattr(ray, "get", lost)
        got = shared.get()
        assert shared.get() is got
        assert reads == [1]
        assert "OwnerDiedError" in caplog.text
        np.testing.assert_array_equal(got["train"]["turned"], arrays["train"]["turned"])
        assert not got["train"]["turned"].flags.writeable
        shared.verify()
        with pytest.raises(StorageError, match=r"no longer what the shared arrays were read from: val/target\."):
            other.get()
        with pytest.raises(ray.exceptions.OwnerDiedError):
            hopeless.get()


def test_rows_read_what_lies_on_disk_when_it_is_gathered(tmp_path: Path):
    faces = np.random.default_rng(3).integers(0, 256, (13, 5, 7, 3), dtype=np.uint8)
    np.save(tmp_path / "faces.npy", faces)
    mapped = MappedArray.open(tmp_path / "faces.npy")[np.arange(12, -1, -2)]
    rows = Rows({"face": mapped, "target": np.arange(7)})
    taken = rows.take(torch.tensor([3, 0, 3]))
    np.testing.assert_array_equal(taken["face"].numpy(), faces[[6, 12, 6]])
    assert taken["target"].tolist() == [3, 0, 3]
    assert "face" in rows
    assert len(rows) == 7
    taken["face"].zero_()
    np.testing.assert_array_equal(rows.take(torch.tensor([0]))["face"].numpy(), faces[[12]])


def test_chunks_are_bounded_by_rows_and_by_bytes(monkeypatch: pytest.MonkeyPatch):
    rows = Rows({"x": np.zeros((13, 8), np.float32)})
    assert [chunk.tolist() for chunk in rows.chunks(5)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    monkeypatch.setattr("pkdray.embeddings.CHUNK_BYTES", 3 * 8 * 4)
    assert [len(chunk) for chunk in rows.chunks(5)] == [3, 3, 3, 3, 1]


def test_a_column_is_a_copy():
    values = np.arange(5.0)
    rows = Rows({"x": values})
    rows.column("x").zero_()
    assert rows.column("x").tolist() == values.tolist()


@pytest.mark.ray
def test_of_an_array_on_disk_the_path_is_shared(tmp_path: Path, local_ray):
    faces = np.random.default_rng(3).integers(0, 256, (13, 5, 7, 3), dtype=np.uint8)
    np.save(tmp_path / "faces.npy", faces)
    mapped = MappedArray.open(tmp_path / "faces.npy")[np.array([4, 2])]
    shared = SharedArrays.put({"train": {"face": mapped, "target": np.arange(2)}})
    found = shared.get()["train"]
    np.testing.assert_array_equal(found["face"].gather(), faces[[4, 2]])
    assert shared.nbytes() == np.arange(2).nbytes
    shared.verify()
