"""A pool's folder: what makes it whole, and for whom it was made."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from patience import PATIENCE_SECONDS

from pkdray import mirrors
from pkdray.errors import CheckpointError, FingerprintError, RunError
from pkdray.files import checksum
from pkdray.locks import own_note
from pkdray.repeating import repeating
from pkdray.training.pools import Pool


@pytest.fixture
def world(small_dataset, plan, taught):
    dataset = small_dataset()
    study = plan(dataset, {"teachers.training.epochs": 1, "teachers.adapters.training": {"epochs": 1}})
    return study, dataset, taught(study, dataset)


def test_a_whole_pool_is_verified_and_says_what_it_is(world):
    plan, dataset, pool = world
    pool.verify(plan)
    assert pool.finished
    said = pool.read()
    assert said["fingerprint"] == plan.pool_fingerprint
    assert said["dataset_fingerprint"] == dataset.fingerprint
    assert said["teachers"]["joint"]["modalities"] == ["face", "voice", "heart"]
    assert said["teachers"]["joint"]["adapter_of"] is None
    assert said["teachers"]["voice"]["adapter_of"] == "joint"
    names = [
        *(f"embeddings/{name}.parquet" for name in ("face", "heart", "joint", "voice")),
        "joint.adapters/model.safetensors",
        "joint/model.safetensors",
    ]
    assert said["checksums"] == {name: checksum(pool.path / name) for name in names}


def test_the_folder_is_named_by_dataset_and_fingerprint(world, tmp_path):
    plan, _, pool = world
    assert pool.path == tmp_path / "pools" / f"small-classification-vectors-{plan.pool_fingerprint}"


@pytest.mark.parametrize("name", ["RECOLA dev/visual", "../escape", "a\\b", "ünï (2)"])
def test_a_datasets_name_cannot_lead_elsewhere(world, tmp_path, name):
    from dataclasses import replace

    plan, _, _ = world
    odd = replace(plan, info=plan.info.model_copy(update={"name": name}))
    path = Pool.at(tmp_path, odd).path
    assert path.parent == tmp_path
    assert path.name.endswith(plan.pool_fingerprint)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [flip, truncate, Path.unlink])
@pytest.mark.parametrize(
    "name", ["joint/model.safetensors", "joint.adapters/model.safetensors", "embeddings/voice.parquet"]
)
def test_an_altered_or_missing_file_is_told(world, spoil, name):
    plan, _, pool = world
    spoil(pool.path / name)
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        pool.verify(plan)
    assert caught.value.details == (f"{name} is missing or not what was written",)
    assert "Delete these files and" in str(caught.value)
    assert f"pool.yaml in {pool.path}, then run `pkdray teach` again" in str(caught.value)


def test_all_damage_is_told_at_once(world):
    plan, _, pool = world
    flip(pool.path / "joint" / "model.safetensors")
    shutil.rmtree(pool.path / "embeddings")
    with pytest.raises(CheckpointError) as caught:
        pool.verify(plan)
    assert len(caught.value.details) == 5


def test_what_trials_and_crashes_leave_behind_is_no_part_of_it(world):
    plan, _, pool = world
    pool.tnets.mkdir()
    (pool.tnets / "0123.safetensors").write_bytes(b"x")
    # As after a process was killed while it wrote.
    leftover = pool.path / "embeddings" / ".voice.tmp-abc.parquet"
    leftover.write_bytes(b"x")
    pool.write(plan, {name: {} for name in plan.pool})
    leftover.unlink()
    pool.discard_tnets()
    assert not pool.tnets.exists()
    pool.verify(plan)


def test_the_pool_of_another_study_is_refused_with_both_fingerprints(world, plan, small_dataset):
    study, _, pool = world
    other = plan(small_dataset(), {"seed": 99})
    with pytest.raises(FingerprintError) as caught:
        pool.verify(other)
    assert study.pool_fingerprint in str(caught.value)
    assert other.pool_fingerprint in str(caught.value)


def test_an_unfinished_pool_is_told(tmp_path):
    pool = Pool(tmp_path / "none")
    assert not pool.finished
    with pytest.raises(CheckpointError, match="is no finished teacher pool"):
        pool.read()


@pytest.mark.parametrize("text", ["", "- a\n", "fingerprint: x\n", "a: [", "\x00"])
def test_a_damaged_pool_yaml_is_told(world, text):
    plan, _, pool = world
    (pool.path / "pool.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="pkdray teach"):
        pool.verify(plan)


def test_pool_yaml_is_plain(world):
    _, _, pool = world
    assert yaml.safe_load((pool.path / "pool.yaml").read_text()) == pool.read()


def test_embeddings_come_in_the_order_of_the_samples_asked_for(world):
    plan, dataset, pool = world
    ids = dataset.samples["sample_id"].tolist()
    everything = pool.load_embeddings(plan, ids)
    some = pool.load_embeddings(plan, [ids[7], ids[100], ids[0]])
    assert list(some) == ["joint", "face", "voice", "heart"]
    for name, said in some.items():
        np.testing.assert_array_equal(said.prediction, everything[name].prediction[[7, 100, 0]])


def test_a_sample_that_the_pool_does_not_know_is_told(world):
    plan, _, pool = world
    with pytest.raises(CheckpointError, match=r"joint\.parquet knows nothing of sample 'stranger'"):
        pool.load_embeddings(plan, ["s001", "stranger"])


# --- who trains it ---


def test_a_pool_on_storage_that_another_machine_trains_is_waited_for(s3_server, monkeypatch):
    monkeypatch.setattr("pkdray.training.pools.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("pkdray.mirrors.lease._LOOK_SECONDS", 0.3)
    pool = Pool(mirrors.open_root(s3_server.uri("runs", "pools", "p")))
    place = {"Bucket": s3_server.bucket, "Key": "runs/pools/p/.lease"}
    content = b'{"holder": "process 2 on b", "token": "2"}'
    client, turn, over, waited = s3_server.client(), threading.Lock(), threading.Event(), []

    def keep():
        with turn:
            if not over.is_set():
                client.put_object(**place, Body=content)

    def wait(holder):
        waited.append(holder)
        # The holder falls silent when it has been seen, with no write under way; three seconds later it counts as dead.
        with turn:
            over.set()
        monkeypatch.setattr("pkdray.mirrors.lease.STALE_SECONDS", 3)

    keep()
    with repeating(keep, 0.2), pool.trained_alone(wait) as check:
        # Not this one, however slow it is.
        monkeypatch.setattr("pkdray.mirrors.lease.STALE_SECONDS", 600)
        check()
        assert mirrors.lease_holder(pool.path) == own_note()
    assert waited == ["process 2 on b"]
    assert mirrors.lease_holder(pool.path) is None, "given back"


def test_whoever_slept_while_another_machine_took_the_pool_does_not_declare_it_finished(s3_server):
    pool = Pool(mirrors.open_root(s3_server.uri("runs", "pools", "p")))

    def sleep_through_it():
        with pool.trained_alone(pytest.fail) as check:
            check()
            mirrors.write(pool.path / mirrors.LEASE_FILE, b'{"holder": "process 2 on b", "token": "2"}')
            check()

    with pytest.raises(RunError, match="Another machine took over the teacher pool s3://") as told:
        sleep_through_it()
    assert "pkdray resume RUN" in told.value.cure
    assert mirrors.lease_holder(pool.path) == "process 2 on b", "it is not the sleeper's to give back"


def test_what_is_at_work_is_interrupted_when_the_pool_is_taken_over(s3_server, monkeypatch):
    monkeypatch.setattr(mirrors, "REFRESH_SECONDS", 0.05)
    pool = Pool(mirrors.open_root(s3_server.uri("runs", "pools", "p")))
    place = {"Bucket": s3_server.bucket, "Key": "runs/pools/p/.lease"}
    content = b'{"holder": "process 2 on b", "token": "2"}'
    client = s3_server.client()

    def take_over():
        client.put_object(**place, Body=content)

    def work():
        # Again and again: a refresh may be under way, between its look and its write. And from a thread, where no
        # interrupt breaks off the write.
        with pool.trained_alone(pytest.fail), repeating(take_over, 0.1):
            for _ in range(10 * PATIENCE_SECONDS):
                # The interrupt ends no wait, but arrives after it.
                threading.Event().wait(0.1)

    with pytest.raises(RunError, match="Another machine took over the teacher pool s3://"):
        work()
    assert mirrors.lease_holder(pool.path) == "process 2 on b"


def test_files_that_other_nodes_kept_to_themselves_are_named(world):
    plan, _, pool = world
    (pool.path / "pool.yaml").unlink()
    (pool.teacher("joint") / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks joint/model\.safetensors, which other nodes") as told:
        pool.write(plan, {})
    assert "--runs-dir that all nodes see" in told.value.cure
    assert not pool.finished


def test_a_damaged_pool_on_storage_is_to_be_mended_there_too(world, s3_server):
    plan, _, pool = world
    remote = Pool(mirrors.open_root(s3_server.uri("runs", "pools", pool.path.name)))
    shutil.copytree(pool.path, remote.path)
    remote.share()
    flip(remote.teacher("joint") / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged") as told:
        remote.verify(plan)
    assert s3_server.uri("runs", "pools", pool.path.name) in told.value.cure
    assert str(remote.path) in told.value.cure
