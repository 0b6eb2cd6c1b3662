"""A teacher pool's folder: what is in it, what it was made from, and whether it is whole."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pkdray import mirrors
from pkdray.embeddings import TeacherEmbeddings, read_embeddings
from pkdray.errors import CheckpointError, FingerprintError, RunError
from pkdray.files import checksum, storage_errors, write_yaml
from pkdray.locks import BusyError, locked, own_note
from pkdray.repeating import repeating
from pkdray.training.plan import Plan

POOL_FILE = "pool.yaml"
LOCK_FILE = ".lock"
MODEL_FILE = "model.safetensors"
GO_ON = "What is trained is kept: run the same command again, or `pkdray resume RUN` where the run exists by now."
LOOK_SECONDS = 1.0
"""How often one looks who waits for another to train a pool."""


@dataclass(frozen=True)
class Pool:
    """The folder of one teacher pool.

    ``<pool>/pool.yaml`` · ``<pool>/<teacher>/model.safetensors, config.yaml, curves.parquet`` ·
    ``<pool>/embeddings/<teacher>.parquet`` · ``<pool>/tnets/`` (frozen T-Nets that trials share).
    ``pool.yaml`` is written last: a pool without it is unfinished, and teaching it continues where it stopped.
    """

    path: Path

    @classmethod
    def at(cls, pools_dir: Path, plan: Plan) -> Pool:
        """The folder of the plan's pool, brought here where it is remote.

        Its name carries the fingerprint of what the pool is made from.
        """
        # A dataset's name is free text; only what is plain in any file system goes into a folder's name.
        plain = re.sub(r"[^A-Za-z0-9_.+-]+", "-", plan.info.name)
        pool = cls(pools_dir / f"{plain}-{plan.pool_fingerprint}")
        pool.fetch()
        return pool

    def fetch(self) -> None:
        """Bring a remote pool here, but for the T-Nets, which trials fetch one by one.

        Raises:
            StorageError: its storage cannot be read.
        """
        mirrors.pull(self.path, skip=(self.tnets.name,))

    def share(self) -> None:
        """Bring to a remote pool's storage what was written here.

        Raises:
            StorageError: its storage cannot be written.
        """
        mirrors.push(self.path, skip=(self.tnets.name,))

    def __reduce__(self) -> tuple[object, ...]:
        # Ray's processes may run in another folder than the one that names it.
        return (type(self), (self.path.resolve(),))

    def teacher(self, name: str) -> Path:
        """The folder of one trained teacher (adapters share one folder, named after their teacher)."""
        return self.path / name

    def adapters(self, teacher: str) -> Path:
        """The folder of the adapters that recycle a teacher."""
        return self.path / f"{teacher}.adapters"

    def embeddings(self, name: str) -> Path:
        """The file of one pool member's embeddings."""
        return self.path / "embeddings" / f"{name}.parquet"

    @property
    def frozen(self) -> Path:
        """The folder of the steps of frozen backbones, which all pools beside this one share."""
        return self.path.parent / "frozen"

    @property
    def tnets(self) -> Path:
        """The folder of the T-Nets that trials share."""
        return self.path / "tnets"

    @property
    def finished(self) -> bool:
        """Whether every teacher is trained and its embeddings are written."""
        return (self.path / POOL_FILE).exists()

    def read(self) -> dict[str, Any]:
        """pool.yaml as plain data.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            data = yaml.safe_load((self.path / POOL_FILE).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise CheckpointError(f"{self.path} is no finished teacher pool.", cure="Run `pkdray teach`.") from error
        if not isinstance(data, dict) or not {"fingerprint", "checksums"} <= data.keys():
            raise CheckpointError(
                f"{self.path / POOL_FILE} is damaged.", cure=f"Delete it in {self._places()}, and run `pkdray teach`."
            )
        return data

    def write(self, plan: Plan, metrics: dict[str, dict[str, float]]) -> None:
        """Declare the pool finished: fingerprints, members, validation metrics and checksums.

        Raises:
            CheckpointError: files are missing, as where nodes share no disk.
            StorageError: it cannot be written.
        """
        folders = {self.adapters(member.adapter_of) for member in plan.pool.values() if member.adapter_of}
        folders |= {self.teacher(member.name) for member in plan.pool.values() if member.adapter_of is None}
        files = sorted([*(folder / MODEL_FILE for folder in folders), *map(self.embeddings, plan.pool)])
        missing = [str(path.relative_to(self.path)) for path in files if not path.is_file()]
        if missing:
            raise CheckpointError(
                f"{self.path} lacks {', '.join(missing)}, which other nodes have written to disks of their own.",
                cure="Choose a --runs-dir that all nodes see: a shared folder, s3:// or gs://.",
            )
        write_yaml(
            self.path / POOL_FILE,
            {
                "fingerprint": plan.pool_fingerprint,
                "dataset": plan.info.name,
                "dataset_fingerprint": plan.dataset_fingerprint,
                "fold": plan.config.dataset.fold,
                "seed": plan.config.seed,
                "teachers": {
                    name: {
                        **{key: value for key, value in asdict(member).items() if key != "name"},
                        "modalities": list(member.modalities),
                        "fusion": plan.config.teachers.fusion if member.adapter_of is None else None,
                        "validation": metrics[name],
                    }
                    for name, member in plan.pool.items()
                },
                "checksums": {str(path.relative_to(self.path)): checksum(path) for path in files},
            },
            header="A teacher pool of pkdray; it is reused wherever the fingerprint is the same.",
        )
        self.share()

    def verify(self, plan: Plan) -> None:
        """Check that the pool was made for this plan and that no file changed since.

        Raises:
            FingerprintError: it was made from something else.
            CheckpointError: a file is missing, truncated or was altered.
        """
        data = self.read()
        if data["fingerprint"] != plan.pool_fingerprint:
            raise FingerprintError(
                f"The pool {self.path} has the fingerprint {data['fingerprint']}, but this study needs "
                f"{plan.pool_fingerprint} (other data, teachers, seed or modalities).",
                cure="Run `pkdray teach` with this study's file to make the pool it needs.",
            )
        damaged = [
            name
            for name, expected in data["checksums"].items()
            if not (self.path / name).is_file() or checksum(self.path / name) != expected
        ]
        if damaged:
            raise CheckpointError(
                f"The teacher pool {self.path} is damaged:",
                details=[f"{name} is missing or not what was written" for name in damaged],
                cure=f"Delete these files and {POOL_FILE} in {self._places()}, then run `pkdray teach` again: it makes "
                "them anew and keeps the rest.",
            )

    def _places(self) -> str:
        """Where its files lie: a remote pool's would come back from its storage, or be brought there again."""
        uri = mirrors.uri_of(self.path)
        return str(self.path) if uri is None else f"{uri} and in its mirror {self.path}"

    def load_embeddings(self, plan: Plan, sample_ids: list[str]) -> dict[str, TeacherEmbeddings]:
        """What every member says of the samples, in the order of ``sample_ids``.

        Raises:
            CheckpointError: a file is missing or damaged, or lacks a sample.
        """
        result = {}
        for name in plan.pool:
            found, embeddings = read_embeddings(self.embeddings(name))
            position = {sample_id: row for row, sample_id in enumerate(found)}
            try:
                rows = [position[sample_id] for sample_id in sample_ids]
            except KeyError as error:
                raise CheckpointError(
                    f"{self.embeddings(name)} knows nothing of sample {error}.", cure="Run `pkdray embed` on the pool."
                ) from error
            import numpy as np

            result[name] = embeddings.take(np.asarray(rows))
        return result

    @contextmanager
    def trained_alone(self, waiting: Callable[[str], object]) -> Iterator[Callable[[], None]]:
        """Keep others from training the pool in the block: on this machine by a lock, on remote storage by a lease.

        Two sweeps of one study need the same pool, and may start at once; the second waits for the first. The lock
        dies with its process.

        Args:
            waiting: called with who trains the pool, whenever this one has waited a little for it.

        Yields:
            A check that raises where another machine has taken the pool over, because this one slept. What is at work
            then is interrupted within seconds, too.

        Raises:
            RunError: another machine has taken the pool over.
            StorageError: the folder, or its storage, cannot be read or written.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            _entered(lambda: stack.enter_context(locked(self.path / LOCK_FILE)), waiting)
            if mirrors.uri_of(self.path) is None:
                yield lambda: None
                return
            lease = mirrors.Lease(self.path, own_note())
            _entered(lease.take, waiting)
            stack.callback(lambda: mirrors.tried(lease.give_back, "the lease"))
            stack.enter_context(repeating(lease.keep, mirrors.REFRESH_SECONDS, "pkdray-lease"))

            def check() -> None:
                lease.refresh()
                if lease.lost:
                    raise self._taken_over()

            try:
                yield check
            except BaseException as error:
                if lease.lost:
                    raise self._taken_over() from error
                raise

    def _taken_over(self) -> RunError:
        return RunError(
            f"Another machine took over the teacher pool {mirrors.shown(self.path)}: for too long nothing was heard "
            "from this one.",
            cure=f"It goes on there. {GO_ON}",
        )

    def discard_tnets(self) -> None:
        """Delete the shared T-Nets, which a newly trained teacher makes worthless."""
        shutil.rmtree(self.tnets, ignore_errors=True)
        mirrors.remove(self.tnets)


def _entered(enter: Callable[[], object], waiting: Callable[[str], object]) -> None:
    while True:
        try:
            enter()
            return
        except BusyError as error:
            waiting(error.holder)
        time.sleep(LOOK_SECONDS)
