"""The papers' three experiments in miniature, by the command line: raw recordings in, answers to a raw video out.

Each set is imported, its ready space taught and swept, evaluated and exported, and the student is asked about a video.
The networks are the spaces' own or smaller ones of their kind; what is long is cut short.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import media_writers as writers
import numpy as np
import pandas as pd
import pytest
import replicas
import torch
from command_line import Said
from PIL import Image

from pkdray.data.dataset import open_dataset
from pkdray.search.run import Run
from pkdray.search.sweep import study_arrays
from pkdray.search.trial import CURVES, run_trial

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray"), pytest.mark.cluster]

QUICK = {"epochs": 1, "patience": 1, "micro_batch": "null", "precision": "float32"}
"""In place of what the ready spaces ask of an A100."""


def settings(changes: Mapping[str, Any]) -> list[str]:
    """``--set`` for each change, on CPUs, an epoch of everything."""
    quick = {
        f"{section}.{name}": value
        for section in ("teachers.training", "teachers.adapters.training", "student.tnet.fit", "training")
        for name, value in QUICK.items()
    }
    cpu = {"cpus_per_trial": 1, "gpus_per_trial": 0, "gpus_per_teacher_worker": 0, "readers": 0}
    every = (
        quick | {f"resources.{name}": value for name, value in cpu.items()} | {"search.asha": "null"} | dict(changes)
    )
    return [word for path, value in every.items() for word in ("--set", f"{path}={value}")]


def walk(
    pkdray: Callable[..., Said], space: str, changes: Mapping[str, Any], imported: Sequence[str], video: Path
) -> tuple[Path, pd.DataFrame]:
    """From recordings to answers; returns the run's folder and the time line of ``video``."""
    commands: list[tuple[str, ...]] = [
        ("data", "import", *imported),
        ("sweep", space, "--trials", "2", *settings(changes)),
        ("evaluate", space, "--seeds", "1"),
        ("export", space, "-o", "student"),
        ("predict", "student", str(video), "-o", "answers.parquet", "--plot", "answers.png"),
    ]
    for command in commands:
        said = pkdray(*command)
        assert said.code == 0, (command, said.err)
    run = Path("runs") / space
    trials = pd.read_parquet(run / "trials.parquet")
    assert trials["state"].tolist() == ["complete"] * 2
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert set(evaluation["methods"]) == {"lower_bound", "student", "teacher"}
    for method in evaluation["methods"].values():
        assert np.isfinite(method["mean"])
    student = Path("student")
    card = (student / "README.md").read_text(encoding="utf-8")
    assert "pkdray predict student video.mp4" in card
    assert {"model.safetensors", "model.onnx", "model.pt2", "preprocessing.yaml"} <= {
        path.name for path in student.iterdir()
    }
    with Image.open("answers.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 10, "something is drawn"
    return run, pd.read_parquet("answers.parquet")


def test_recola_by_two_data_parallel_workers(pkdray: Callable[..., Said], tmp_path: Path) -> None:
    people = ("train_1", "train_2", "train_3", "dev_1", "dev_2")
    replicas.write_recola_replica(
        tmp_path / "raw",
        people=people,
        rows=53,
        make_video=writers.make_video,
        make_audio=writers.make_audio,
    )
    # VGG19, trained whole; dropout would draw otherwise in each worker.
    changes = {
        "teachers.encoders.face.weights": "null",
        "teachers.encoders.face.hidden": "[24]",
        "student.encoders.face.weights": "null",
        "student.encoders.face.hidden": "[24]",
        "student.encoders.face.dropout": 0,
        "student.encoder.dropout": 0,
        "teachers.embedding": 32,
        "training.batch_size": 3,
        "method.theta": 0.9,
        "search.space": "{method.alpha: {float: [0.1, 0.9]}}",
        "resources.workers_per_trial": 2,
    }
    imported = (
        "recola",
        "raw",
        "data/recola",
        "--size",
        "32",
        "--every",
        "5",
        "--modality",
        "face",
        "--modality",
        "voice",
    )
    video = tmp_path / "raw" / "recordings_video" / "dev_1.mp4"
    path, answers = walk(pkdray, "recola_pkd", changes, imported, video)
    np.testing.assert_allclose(answers["time_s"], np.arange(50) / 25, atol=1e-6)
    assert answers[["valence", "arousal"]].abs().max(axis=None) < 10
    # What two workers trained is what one trains, on the same batches of two seconds or three.
    run = Run(path)
    dataset = open_dataset("data/recola")
    plan = run.plan(dataset)
    arrays = study_arrays(plan, dataset, run.pool(plan))
    trial = run.ledger().trials()[0]
    torch.set_num_threads(1)
    alone = run_trial(plan, {"method.alpha": trial.params["method.alpha"]}, arrays, tmp_path / "alone")
    found, expected = (pd.read_parquet(folder / CURVES) for folder in (run.trial(0), tmp_path / "alone"))
    for name in ("train/loss", "train/task", "train/distillation"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)
    assert trial.value == pytest.approx(alone["value"], abs=1e-3)


def test_biovid_with_a_frozen_backbone(pkdray: Callable[..., Said], tmp_path: Path) -> None:
    from torchvision.models import resnet18

    replicas.write_biovid_replica(
        tmp_path / "raw",
        subjects=replicas.BIOVID_SUBJECTS[:5],
        levels=("BL1", "PA4"),
        each=1,
        make_video=writers.make_video,
    )
    torch.manual_seed(2)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    frozen = "{kind: resnet18, weights: resnet18.pth, freeze: true}"
    changes = {
        "teachers.encoders.face": frozen,
        "teachers.encoders.emg.weights": "null",
        "student.encoders.face": frozen,
        "teachers.embedding": 32,
        "search.space": "{student.tnet.training: {choice: [frozen, joint]}, "
        "method.teachers: {subset: [joint, face, emg], min: 2}}",
        "search.sampler": "random",
    }
    imported = (
        "biovid",
        "raw",
        "data/biovid",
        "--size",
        "32",
        "--every",
        "25",
        "--modality",
        "face",
        "--modality",
        "emg",
    )
    video = next((tmp_path / "raw" / "video").rglob("*PA4*.mp4"))
    run, answers = walk(pkdray, "biovid_mtpkdot", changes, imported, video)
    assert answers["time_s"].tolist() == [1.5, 2.5, 3.5]
    np.testing.assert_allclose(answers[["p_BL1", "p_PA4"]].sum(axis=1), 1, rtol=1e-5)
    # Its pictures went through the frozen network once, for teachers, T-Nets and students.
    assert len(list(Path("runs/pools/frozen").glob("*.npy"))) == 1
    sizes = [path.stat().st_size for path in run.glob("trials/*/best.safetensors")]
    assert len(sizes) == 2
    assert max(sizes) < 10e6 < Path("student/model.safetensors").stat().st_size
    # The student needs no file but its own.
    (tmp_path / "resnet18.pth").unlink()
    assert pkdray("predict", "student", str(video), "-o", "again.parquet").code == 0
    pd.testing.assert_frame_equal(pd.read_parquet("again.parquet"), answers)
    # The window of the clip that the import cut out is answered as its sample was.
    samples = pd.concat([pd.read_parquet(path) for path in (run / "best").glob("predictions.*.parquet")])
    known = samples.set_index("sample_id")["p_PA4"]
    if video.stem in known:
        assert answers["p_PA4"][2] == pytest.approx(known[video.stem], abs=1e-4)


def test_affwild2_in_windows_of_clips(pkdray: Callable[..., Said], tmp_path: Path) -> None:
    videos = [
        replicas.AffVideo("video1", "Train_Set", 97, invalid=(64,), faceless=(3, 4, 36)),
        replicas.AffVideo("video5_left", "Train_Set", 64, batch="batch2"),
        replicas.AffVideo("video9", "Train_Set", 96, batch="new_vids", new=True),
        replicas.AffVideo("video77", "Validation_Set", 71, suffix=".avi"),
    ]
    replicas.write_affwild2_replica(
        tmp_path / "raw", videos=videos, make_video=writers.make_sounding_video, make_image=writers.make_image
    )
    changes = {
        "teachers.encoders.face.weights": "null",
        "teachers.encoders.voice.weights": "null",
        "student.encoders.face.weights": "null",
        "teachers.embedding": 16,
        "teachers.adapters.enabled": "false",
        "training.micro_batch": 1,
        "search.space": "{method.epsilon: {float: [0.05, 0.5], log: true}}",
    }
    imported = ("affwild2", "raw", "data/affwild2", "--size", "24", "--window", "2")
    # Another video than the set's: with a face in it, and not cut out.
    writers.make_video(tmp_path / "new.mp4", seconds=71 / 30, rate=30, level=0.5)
    _, answers = walk(pkdray, "affwild2_pkdot", changes, imported, tmp_path / "new.mp4")
    assert open_dataset("data/affwild2").info.missing_targets
    # Its 71 frames are three clips, of which the last ends with the video.
    np.testing.assert_allclose(answers["time_s"] * 30 + 1, [32, 64, 71], atol=1e-3)
    assert np.isfinite(answers[["valence", "arousal"]].to_numpy()).all()
