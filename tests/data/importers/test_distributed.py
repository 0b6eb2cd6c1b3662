"""Samples made by several Ray actors: the same dataset as one process makes, whatever happens to the workers."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import media_writers as writers
import numpy as np
import pytest
import replicas

from pkdray.data.importers import distributed
from pkdray.data.importers.build import (
    ImportProgress,
    Plan,
    Work,
    make_plan,
    media_options,
    run_import,
    scan_for,
)
from pkdray.data.importers.distributed import Pool, runs, shares
from pkdray.data.importers.extract import in_order
from pkdray.errors import DatasetError, RunError, StorageError


def some(sequences: str) -> list[Any]:
    return [SimpleNamespace(sequence_id=name, sample_id=f"{name}{index}") for index, name in enumerate(sequences)]


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(
    "sequences", ["a", "a" * 301, "abcdefghijklmnopqrstuvw" * 3, "aaabccccccccccccccddd" + "e" * 97]
)
def test_runs_are_the_samples_in_order_and_enough_for_all(sequences: str, workers: int) -> None:
    todo = some("".join(sorted(sequences)))
    cut = runs(todo, workers)
    assert [one for run in cut for one in run] == todo
    assert len(cut) >= min(len(todo), workers)
    longest = -(-len(todo) // (4 * workers))
    assert max(len(run) for run in cut) <= longest
    for run in cut:
        # Either of one sequence, or short.
        assert len({one.sequence_id for one in run}) == 1 or len(run) <= 16


def test_a_sequence_is_whole_where_there_are_enough_of_them() -> None:
    todo = some("".join(name * 30 for name in "abcdefghij"))
    assert [len(run) for run in runs(todo, 2)] == [30] * 10


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(1, 1, 1.0), (4, 1, 0.25), (3, 2, 0.5), (2, 8, 1.0), (5, 2, 1 / 3)]
)
def test_gpus_are_shared_in_whole_workers(workers: int, gpus: int, share: float) -> None:
    asked = shares(workers, "cuda", {"CPU": 16.0, "GPU": float(gpus)})
    assert asked == {"num_cpus": 1.0, "num_gpus": share}
    assert gpus * int(1 / share + 1e-9) >= workers


def test_what_the_cluster_lacks_is_said_and_not_waited_for() -> None:
    assert shares(2, "cpu", {"CPU": 2.0, "GPU": 1.0}) == {"num_cpus": 1.0}
    with pytest.raises(RunError, match="3 workers need 3 CPUs; the cluster has 2") as caught:
        shares(3, "cpu", {"CPU": 2.0})
    assert "--workers 2" in str(caught.value.cure)
    with pytest.raises(RunError, match="has no GPU"):
        shares(1, "cuda", {"CPU": 2.0})
    with pytest.raises(RunError, match="workers is 0"):
        Pool(0)
    with pytest.raises(RunError, match="'cuda:1'"):
        Pool(2, "cuda:1")


@pytest.fixture(scope="module")
def biovid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "biovid"
    replicas.write_biovid_replica(
        root, subjects=replicas.BIOVID_SUBJECTS[:4], levels=("BL1", "PA4"), each=1, make_video=writers.make_video
    )
    return root


@pytest.fixture(scope="module")
def recola(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "recola"
    replicas.write_recola_replica(
        root,
        people=("train_1", "train_2", "dev_1"),
        rows=131,
        make_video=writers.make_video,
        make_audio=writers.make_audio,
    )
    return root


def planned(root: Path, dest: Path, modalities: tuple[str, ...] = (), **making: Any) -> Plan:
    scan, chosen = scan_for(root.name, root, modalities)
    options = media_options(scan, chosen, **{"every": 25, "size": 33, **making})
    return make_plan(dest, scan, options, protocol=scan.protocols[0])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_make_the_very_same_dataset(biovid: Path, local_ray: None, tmp_path: Path) -> None:
    root = tmp_path / "biovid"
    shutil.copytree(biovid, root)
    broken = sorted((root / "video").glob("*/*.mp4"))[3]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    alone = run_import(planned(root, tmp_path / "alone"))
    told: list[ImportProgress] = []
    together = run_import(planned(root, tmp_path / "together"), told.append, maker=Pool(2))
    assert together.dataset.fingerprint == alone.dataset.fingerprint
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert together.report.read_bytes() == alone.report.read_bytes()
    assert dict(together.failures) == dict(alone.failures)
    assert list(together.failures) == [broken.stem]
    assert dict(together.counts) == dict(alone.counts)
    assert [one.done + one.failed for one in told] == list(range(9))
    assert not (tmp_path / "together.partial").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    recola: Path, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, mark = planned(recola, tmp_path / "together"), tmp_path / "killed"
    victim = plan.scan.recordings[7].sample_id

    class Making(Work):
        def make(self, one: Any, sources: Any) -> Any:
            if one.sample_id == victim and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().make(one, sources)

    class Worker(distributed._Worker):
        """Is killed while it makes a sample for the first time: from outside one may come too late."""

        def __init__(self, work: Work, *more: Any) -> None:
            super().__init__(Making(work.plan), *more)

    monkeypatch.setattr(distributed, "_Worker", Worker)
    together = run_import(plan, maker=Pool(2))
    assert mark.exists()
    assert not together.failures
    assert len(together.dataset) == 15
    run_import(planned(recola, tmp_path / "alone"))
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


@pytest.mark.ray
def test_what_workers_had_made_when_they_were_stopped_is_kept(
    biovid: Path, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: ImportProgress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    plan = planned(biovid, tmp_path / "out", ("gsr",))
    with pytest.raises(KeyboardInterrupt):
        run_import(plan, stop, maker=Pool(2))
    assert len(list((plan.partial / "samples").rglob("*.npz"))) >= 3
    assert not (plan.partial / "workers").exists()
    told: list[ImportProgress] = []
    made = run_import(planned(biovid, tmp_path / "out", ("gsr",)), told.append)
    assert told[0].kept >= 3
    assert made.dataset.fingerprint == run_import(planned(biovid, tmp_path / "at once", ("gsr",))).dataset.fingerprint
    # A worker on another disk finds another mark there, or none.
    monkeypatch.setattr(distributed, "_marked", lambda work: (work.plan.partial / "workers").mkdir() or "mark")
    with pytest.raises(StorageError, match=r"does not see .*other\.partial") as caught:
        run_import(planned(biovid, tmp_path / "other", ("gsr",)), maker=Pool(1))
    assert "storage that every node of the cluster sees" in str(caught.value.cure)


class Bench:
    """A worker without Ray, and the import that it works for."""

    def __init__(self, plan: Plan) -> None:
        self.work = Work(plan)
        self.work.open()
        self.mark = distributed._marked(self.work)
        self.todo = in_order(plan.scan.recordings)

    def told(self, mark: str | None = None, device: str = "cpu") -> list[tuple[str, DatasetError | None]]:
        import ray

        worker = distributed._Worker(self.work.travelling(), mark or self.mark, device)
        batch = {"run": [ray.cloudpickle.dumps(distributed._run_of(self.work, self.todo))]}
        rows = ({key: np.array(cells) for key, cells in row.items()} for row in worker(batch))
        return list(distributed._told(rows, self.todo))


@pytest.fixture
def bench(biovid: Path, tmp_path: Path) -> Bench:
    shutil.copytree(biovid, tmp_path / "biovid")
    return Bench(planned(tmp_path / "biovid", tmp_path / "out", ("gsr",)))


def test_a_worker_makes_a_run_and_does_not_make_it_again(bench: Bench) -> None:
    assert bench.told() == [(one.sample_id, None) for one in bench.todo]
    written = {path: path.stat().st_mtime_ns for path in (bench.work.plan.partial / "samples").rglob("*.npz")}
    assert len(written) == 8
    assert bench.told() == [(one.sample_id, None) for one in bench.todo]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [path.name for path in (bench.work.plan.partial / "workers").iterdir()] == ["marker"]


def test_a_sample_that_workers_die_of_is_left_out_and_the_rest_goes_on(bench: Bench) -> None:
    victim = bench.todo[2].sample_id
    attempts = bench.work.plan.partial / "workers" / f"{victim}.npz"
    attempts.write_bytes(b"..")
    assert dict(bench.told())[victim] is None, "two deaths may be chance"
    bench.work.path(victim).unlink()
    attempts.write_bytes(b"...")
    outcomes = dict(bench.told())
    assert f"died 3 times while it made {victim}" in str(outcomes.pop(victim))
    assert set(outcomes.values()) == {None}


def test_a_worker_that_cannot_see_or_use_something_stops_the_import(bench: Bench) -> None:
    with pytest.raises(StorageError, match=r"does not see .*out\.partial"):
        bench.told(mark="another")
    with pytest.raises(DatasetError, match="device 'nonsense' cannot be used"):
        bench.told(device="nonsense")
    assert not (bench.work.plan.partial / "samples").exists()
    gone = bench.todo[0].sources["biosignals"]
    run = distributed._run_of(bench.work, bench.todo)
    gone.rename(gone.with_suffix(".away"))
    worker = distributed._Worker(bench.work.travelling(), bench.mark, "cpu")
    with pytest.raises(StorageError, match=f"does not see .*{gone.name}"):
        worker._ready(run)


def test_a_file_that_nobody_sees_costs_its_sample_alone(bench: Bench) -> None:
    gone = bench.todo[0].sources["biosignals"]
    gone.unlink()
    again = Bench(bench.work.plan)
    outcomes = dict(again.told())
    assert str(gone) in str(outcomes.pop(bench.todo[0].sample_id))
    assert set(outcomes.values()) == {None}


def test_samples_that_no_worker_answers_for_are_an_error(bench: Bench) -> None:
    row = {key: np.array(["done" if key == "kind" else bench.todo[0].sample_id]) for key in distributed._KEYS}
    with pytest.raises(RunError, match="ended without 7 samples"):
        # Told twice, it counts once.
        list(distributed._told([row, row], bench.todo))
