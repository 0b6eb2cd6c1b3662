"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is first imported: with more threads, sums would depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A local Ray turns tokens on for its whole process, also for clusters that tests start there later, and writes one into
# the user's home. Tests of tokens say so to processes of their own.
os.environ["RAY_AUTH_MODE"] = "disabled"
# By default Ray's workers are so nice (15) that beside other tests they get next to nothing of two cores.
os.environ.update(RAY_worker_niceness="0")

import numpy as np
import pandas as pd
import pytest
from command_line import Said
from hypothesis import settings
from s3 import Server, serving

from pkdray.data.dataset import Dataset, DatasetInfo, Modality, write_dataset
from pkdray.interrupts import heed

if TYPE_CHECKING:
    from pkdray.training.plan import Plan

# Whoever shares two cores may wait for longer than hypothesis would have an example take. The same examples every time:
# whoever looks for new ones says --hypothesis-profile=exploring.
settings.register_profile("patient", settings(), deadline=None, derandomize=True)
settings.register_profile("exploring", settings(), deadline=None, derandomize=False)
settings.load_profile("patient")

CHANNELS = {"face": 5, "voice": 7, "heart": 3}
FRAMES = 6
SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "dataset": {"path": "small", "prevalent": ["face"]},
    "teachers": {
        "encoder": {"hidden": [9], "dropout": 0.1},
        "embedding": 11,
        "adapters": {"hidden": [4], "training": {"epochs": 2, "batch_size": 23}},
        "training": {"epochs": 4, "batch_size": 17, "learning_rate": 0.02},
    },
    "student": {
        "encoder": {"hidden": [10], "dropout": 0.1},
        "tnet": {"hidden": [8], "dropout": 0.0, "fit": {"epochs": 3, "batch_size": 19, "learning_rate": 0.01}},
    },
    "method": {"name": "pkdot", "top_k": 5},
    "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.02},
}


def pytest_configure() -> None:
    # In the background of a script the tests of Ctrl-C would wait for ever.
    heed()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from sharing import FromBothEnds

    return FromBothEnds(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from sharing import order

        order(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "local_ray" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("ray"):
        pytest.fail("It uses local_ray and lacks the marker ray, which decides who runs it.", pytrace=False)


@pytest.fixture
def small_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a tiny dataset of 131 samples, 23 subjects, 46 sequences and 5 folds: ``small_dataset(task, kind)``.

    ``task`` is "classification" (4 classes) or "regression" (2 targets). ``kind`` is "vectors" ([d] a modality),
    "sequences" (face and voice are [T, d] with their own T) or "frames" (both [6, d], and the targets per frame).
    face says little of the target, voice much; heart is one vector a sample in every kind. ``rename`` renames
    modalities.
    """

    def make(
        task: str = "classification", kind: str = "vectors", rename: Mapping[str, str] | None = None, seed: int = 0
    ) -> Dataset:
        rng = np.random.default_rng(seed)
        subject = np.sort(np.concatenate([np.arange(23), rng.integers(0, 23, 131 - 23)]))
        split = np.where(subject % 5 < 3, "train", np.where(subject % 5 == 3, "val", "test"))
        sequence = subject * 2 + np.arange(131) % 2
        steps = (FRAMES,) if kind == "frames" else ()
        if task == "classification":
            target = rng.integers(0, 4, (131, *steps))
            latent = np.eye(4)[target]
            columns = {"target": list(target) if steps else target}
            about: dict[str, Any] = {"classes": ("calm", "joy", "fear", "pain")}
        else:
            latent = rng.normal(size=(131, *steps, 2)) * 0.7 + rng.normal(size=(46, 2))[sequence].reshape(
                131, *[1] * len(steps), 2
            )
            names = ("valence", "arousal")
            columns = {
                f"target_{name}": list(latent[..., index]) if steps else latent[..., index]
                for index, name in enumerate(names)
            }
            about = {"targets": names}
        noise = {"face": 1.2, "voice": 0.3, "heart": 0.6}
        lengths = {"face": FRAMES, "voice": FRAMES if kind == "frames" else 4, "heart": None}
        features, modalities = {}, {}
        for name, channels in CHANNELS.items():
            length = lengths[name] if kind != "vectors" else None
            signal = latent @ rng.normal(size=(latent.shape[-1], channels))
            if length is None:
                signal = signal.mean(axis=1) if steps else signal
            elif not steps:
                signal = np.repeat(signal[:, None], length, axis=1)
            called = (rename or {}).get(name, name)
            features[called] = (signal + noise[name] * rng.normal(size=signal.shape)).astype(np.float32) * 3 + 5
            modalities[called] = Modality(shape=features[called].shape[1:])
        samples = pd.DataFrame(
            {
                "sample_id": [f"s{index:03d}" for index in range(131)],
                "subject_id": [f"p{index:02d}" for index in subject],
                "sequence_id": [f"q{index:02d}" for index in sequence],
                **columns,
                "split": split,
                "fold": subject % 5,
            }
        )
        # No split is a block of rows, so a mix-up of rows and positions cannot pass.
        order = rng.permutation(131)
        info = DatasetInfo(
            name=f"small-{task}-{kind}",
            task=task,  # type: ignore[arg-type]
            target_frames=FRAMES if steps else None,
            modalities=modalities,
            **about,
        )
        dest = tmp_path / f"data-{task}-{kind}-{seed}{'-renamed' if rename else ''}"
        return write_dataset(
            dest, info, samples.iloc[order], {name: values[order] for name, values in features.items()}
        )

    return make


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """Resolves the small study against a dataset: ``plan(dataset, {"method.name": "pkd"})``."""
    from pkdray.config import apply_overrides, build_config
    from pkdray.training.plan import make_plan

    def make(dataset: Dataset, overrides: Mapping[str, Any] | None = None) -> Plan:
        return make_plan(build_config(apply_overrides(SMALL, overrides or {})), dataset)

    return make


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray with two CPUs for the whole session; tests that use it carry the ``ray`` marker."""
    from pkdray.cluster import connected

    with pytest.MonkeyPatch.context() as patch:
        # Never the cluster that the developer happens to be logged in to.
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
        with connected():
            yield


@pytest.fixture(scope="session")
def _s3() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def s3_server(_s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An S3 server with an empty bucket, which the environment points to, and mirrors in the test's own folder."""
    for name, value in _s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PKDRAY_MIRRORS", str(tmp_path / "mirrors"))
    _s3.empty()
    return _s3


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process see the mirrors of another machine: ``machine("b")``; it begins on "a"."""
    if "s3_server" in request.fixturenames:
        # Which has a mirror home of its own: the last to set it wins.
        request.getfixturevalue("s3_server")

    def move(name: str) -> None:
        monkeypatch.setenv("PKDRAY_MIRRORS", str(tmp_path / f"machine-{name}"))

    move("a")
    return move


@pytest.fixture
def pkdray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command line in this process, in a folder of its own."""
    from pkdray.__main__ import main

    monkeypatch.chdir(tmp_path)
    # Off a terminal tables are 80 characters wide, and their cells are broken into lines.
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["pkdray", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run
