"""``pkdray data import biovid|affwild2|recola`` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import media_writers as writers
import pytest
import replicas
from command_line import Said
from patience import PATIENCE_SECONDS

from pkdray.data.dataset import open_dataset
from pkdray.data.importers import build
from pkdray.data.importers.extract import MODALITIES
from pkdray.data.importers.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    replicas.write_biovid_replica(
        root / "biovid",
        subjects=replicas.BIOVID_SUBJECTS[:4],
        levels=("BL1", "PA4"),
        each=1,
        make_video=writers.make_video,
    )
    replicas.write_affwild2_replica(
        root / "affwild2",
        videos=(
            replicas.AffVideo("video1", "Train_Set", 64),
            replicas.AffVideo("video9", "Train_Set", 64, faceless=tuple(range(1, 33))),
            replicas.AffVideo("video77", "Validation_Set", 33),
        ),
        make_video=writers.make_sounding_video,
        make_image=writers.make_image,
    )
    replicas.write_recola_replica(
        root / "recola",
        people=("train_1", "train_2", "dev_1"),
        rows=51,
        make_video=writers.make_video,
        make_audio=writers.make_audio,
    )
    return root


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        (
            "biovid",
            ("--every", "25"),
            {"face": [75, 112, 112, 3], "emg": [127, 65], "ecg": [127, 65], "gsr": [127, 65]},
        ),
        ("affwild2", (), {"face": [16, 8, 112, 112, 3], "voice": [16, 107, 64, 1]}),
        ("affwild2", ("--window", "1", "--gaps", "black"), {"face": [8, 112, 112, 3], "voice": [107, 64]}),
        (
            "recola",
            ("--every", "25"),
            {"face": [25, 112, 112, 3], "voice": [100, 64, 1], "ecg": [25, 10], "eda": [25, 10]},
        ),
    ],
)
def test_each_set_is_imported_by_one_command(
    pkdray: Callable[..., Said], sets: Path, tmp_path: Path, name: str, options: tuple[str, ...], shapes: dict[str, Any]
) -> None:
    said = pkdray("data", "import", name, str(sets / name), "out", *options, "--json")
    assert said.code == 0, said.err
    about = json.loads(said.out)
    assert about["modalities"] == shapes
    # The report comes before the long work.
    assert said.err.index(f"{name}: ") < said.err.index("Importing ...") < said.err.index(f"0/{about['to_make']}")
    dataset = open_dataset(tmp_path / "out")
    assert {key: list(one.shape) for key, one in dataset.info.modalities.items()} == shapes
    assert len(dataset) == about["made"]["samples"] == about["to_make"] - len(about["failures"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.report.csv"]


def test_what_was_left_out_is_said_at_the_end(pkdray: Callable[..., Said], sets: Path, tmp_path: Path) -> None:
    said = pkdray("data", "import", "affwild2", str(sets / "affwild2"), "out", "--window", "1")
    assert said.code == 0, said.err
    assert said.out.startswith("left out: 1 samples that could not be made: 'video9-00032'. The first: No face was")
    assert "What became of each sample is in out.report.csv." in said.out
    assert "pkdray data inspect out" in said.out


def test_a_dry_run_writes_nothing(pkdray: Callable[..., Said], sets: Path, tmp_path: Path) -> None:
    said = pkdray("data", "import", "recola", str(sets / "recola"), "out", "--dry-run")
    assert said.code == 0, said.err
    assert said.out.startswith("recola: 6 samples of 3 subjects, 0 samples left out")
    assert "To make: 6 samples of face [25, 112, 112, 3], voice [100, 64, 1], ecg [25, 10], eda [25, 10]" in said.out
    assert list(tmp_path.iterdir()) == []
    about = json.loads(pkdray("data", "import", "recola", str(sets / "recola"), "out", "--dry-run", "--json").out)
    assert about["to_make"] == 6
    assert about["counts"]["train/dev test samples"] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_how_many_frames_have_no_label(pkdray: Callable[..., Said], sets: Path, tmp_path: Path) -> None:
    arguments = ("data", "import", "affwild2", str(sets / "affwild2"), "out", "--dry-run", "--window", "3")
    said = pkdray(*arguments)
    # Three videos of two clips each, in windows of three.
    assert "voice [3, 107, 64, 1], 3 of their frames without a label, with up to" in said.out
    assert json.loads(pkdray(*arguments, "--json").out)["unlabelled"] == 3


def test_a_limit_makes_a_small_dataset(pkdray: Callable[..., Said], sets: Path, tmp_path: Path) -> None:
    base = ("data", "import", "biovid", str(sets / "biovid"), "out", "--modality", "gsr")
    said = pkdray(*base, "--limit", "6", "--protocol", "5-fold")
    assert said.code == 0, said.err
    assert len(open_dataset(tmp_path / "out")) == 6
    said = pkdray(*base[:-3], "other", "--limit", "1")
    assert said.code == 2
    assert "Perhaps the limit of 1 samples is too low" in said.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("affwild2", "{sets}/affwild2", "out", "--stride", "1"), ("stride is 1 with windows of 16", "a window of 1")),
        (("biovid", "{sets}", "out"), ("is not a root of BioVid", "it holds affwild2/, biovid/", "Perhaps you mean")),
        (("affwild2", "{sets}/nowhere", "out"), ("nowhere does not exist", "Give the folder")),
        (("recola", "{sets}/biovid", "out"), ("is not a root of RECOLA", "ratings_gold_standard")),
        (("biovid", "{sets}/biovid", "out", "--part", "D"), ("part is 'D'", "A, B, C")),
        (("biovid", "{sets}/biovid", "out", "--classes", "two"), ("classes is 'two'", "BL1-PA4, five")),
        (("biovid", "{sets}/biovid", "out", "--protocol", "x"), ("no protocol 'x'", "loso67")),
        (("biovid", "{sets}/biovid", "out", "--modality", "voice"), ("modality 'voice'", "face, emg, ecg, gsr")),
        (("biovid", "{sets}/biovid", "out", "--signals", "clean"), ("asked for are 'clean'", "filtered or raw")),
        (("recola", "{sets}/recola", "out", "--delay", "9"), ("cannot be shifted back by 225", "unit (seconds)")),
        (("recola", "{sets}/recola", "out", "--delay", "-1"), ("--delay is '-1'", "seconds, 0 or more, or auto")),
        (("recola", "{sets}/recola", "out", "--delay", "soon"), ("--delay is 'soon'", "or auto")),
        (("recola", "{sets}/recola", "out", "--delay", "auto"), ("'train_2' has 50 frames", "--delay SECONDS")),
        (("recola", "{sets}/recola", "out", "--gaps", "white"), ("gaps is 'white'", "retain, black")),
    ],
)
def test_a_mistake_says_what_and_how_to_mend_it(
    pkdray: Callable[..., Said], sets: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    said = pkdray("data", "import", *(one.replace("{sets}", str(sets)) for one in arguments))
    assert said.code == 2, said
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "option", "choices"),
    [
        *((name, "--protocol", tuple(PROTOCOLS[name])) for name in PROTOCOLS),
        *((name, "--modality", MODALITIES[name]) for name in MODALITIES),
        *((name, "--signals", ("filtered", "raw")) for name in ("biovid", "recola")),
        *((name, "--gaps", ("retain", "black")) for name in MODALITIES),
        ("biovid", "--emg", ("emg_corrugator", "emg_trapezius", "emg_zygomaticus")),
    ],
)
def test_help_names_the_choices(pkdray: Callable[..., Said], name: str, option: str, choices: tuple[str, ...]) -> None:
    shown = " ".join(pkdray("data", "import", name, "--help").out.split())
    about = shown.partition(f" {option} <")[2].partition(" --")[0]
    assert [one for one in choices if one not in about] == []


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    pkdray: Callable[..., Said], sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    extract = build.extract

    def pressed(name: str, one: Any, *rest: Any) -> Any:
        if len(made) == 3:
            made.append("Ctrl-C")
            os.kill(os.getpid(), signal.SIGINT)
        made.append(one.sample_id)
        return extract(name, one, *rest)

    monkeypatch.setattr(build, "extract", pressed)
    command = ("data", "import", "biovid", str(sets / "biovid"), "out", "--modality", "ecg")
    said = pkdray(*command)
    assert said.code == 130
    assert "The import stopped; what is finished is in out.partial." in said.err
    assert "Go on with the same command." in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    other = pkdray(*command, "--biosignals", "waveform")
    assert other.code == 2
    assert "biosignals was spectrogram, now it is waveform." in other.err
    said = pkdray(*command)
    assert said.code == 0, said.err
    assert "3/8 samples (3 from before)" in said.err
    made.remove("Ctrl-C")
    assert len(made) == len(set(made)) == len(open_dataset(tmp_path / "out")) == 8


def test_what_a_kill_after_the_end_left_is_removed_and_said(
    pkdray: Callable[..., Said], sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "import", "biovid", str(sets / "biovid"), "out", "--modality", "ecg")
    with monkeypatch.context() as patch:
        patch.setattr(build.Work, "remove", lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert pkdray(*command).code == 130
    assert (tmp_path / "out.partial").is_dir()
    said = pkdray(*command)
    assert said.code == 0, said.err
    assert "out was finished before; what was left of out.partial is removed." in said.err
    assert "samples: 8" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.report.csv"]
    assert pkdray(*command).code == 2


@pytest.mark.ray
@pytest.mark.slow
def test_several_workers_by_one_command(
    pkdray: Callable[..., Said], sets: Path, tmp_path: Path, local_ray: None
) -> None:
    command = ("data", "import", "biovid", str(sets / "biovid"))
    said = pkdray(*command, "out", "--modality", "gsr", "--workers", "2")
    assert said.code == 0, said.err
    assert pkdray(*command, "alone", "--modality", "gsr").code == 0
    assert open_dataset(tmp_path / "out").fingerprint == open_dataset(tmp_path / "alone").fingerprint
    said = pkdray(*command, "other", "--modality", "gsr", "--workers", "300")
    assert said.code == 2
    assert "300 workers need 300 CPUs; the cluster has 2" in said.err
    said = pkdray(*command, "another", "--modality", "gsr", "--workers", "2", "--device", "cuda:1")
    assert said.code == 2
    assert "Choose cpu or cuda" in said.err


# The command line, killed while it writes its third sample: from outside the kill may come too late.
KILLED = """
import os, signal
from pkdray.__main__ import main
from pkdray.data.importers import build

savez, begun = build.np.savez, []

def killed(file, **content):
    begun.append(file)
    if len(begun) == 3:
        file.write(b"PK")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    savez(file, **content)

build.np.savez = killed
main()
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_costs_at_most_one_sample(sets: Path, tmp_path: Path) -> None:
    src = tmp_path / "biovid"
    shutil.copytree(sets / "biovid", src)
    command = ["data", "import", "biovid", str(src), str(tmp_path / "out"), "--json"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # A file that is still being written begins with a dot.
    assert len(list((tmp_path / "out.partial" / "samples").rglob("[0-9]*.npz"))) == 2
    ran = subprocess.run(
        [sys.executable, "-m", "pkdray", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "2/8 samples (2 from before)" in ran.stderr
    assert len(open_dataset(tmp_path / "out")) == 8
    assert not (tmp_path / "out.partial").exists()
