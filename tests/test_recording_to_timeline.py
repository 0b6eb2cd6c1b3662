"""The whole way of a film: imported, a student's best/, exported, and asked about the very recordings it came from."""

from __future__ import annotations

from pathlib import Path

import media_writers as writers
import numpy as np
import pandas as pd
import pytest
import replicas
import torch

import pkdray
from pkdray.config import Config
from pkdray.data.dataset import Dataset
from pkdray.data.importers.build import make_plan as plan_import
from pkdray.data.importers.build import media_options, run_import, scan_for
from pkdray.evaluate.evaluation import _exported
from pkdray.export import export_student, student
from pkdray.search.results import write_best
from pkdray.search.run import Run, sampler_for
from pkdray.search.trial import BEST
from pkdray.training.checkpoints import save_tensors
from pkdray.training.plan import make_plan
from pkdray.training.students import fresh_student


@pytest.fixture
def filmed(tmp_path: Path) -> Dataset:
    root = tmp_path / "biovid"
    replicas.write_biovid_replica(
        root, subjects=replicas.BIOVID_SUBJECTS[:4], levels=("BL1", "PA4"), each=1, make_video=writers.make_video
    )
    scan, chosen = scan_for("biovid", root, ("face", "gsr"))
    options = media_options(scan, chosen, every=25, size=33)
    return run_import(plan_import(tmp_path / "data", scan, options, protocol=scan.protocols[0])).dataset


@pytest.mark.slow
def test_a_recording_is_answered_as_its_sample_in_the_dataset_was(
    filmed: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate(
        {
            "name": "pain",
            "dataset": {"path": str(filmed.path), "prevalent": ["face"], "privileged": ["gsr"]},
            "teachers": {"encoders": {"face": {"kind": "resnet18"}}, "adapters": {"enabled": False}},
            "student": {"encoders": {"face": {"kind": "resnet18"}}, "tnet": {"training": "none"}},
            "search": {"trials": 1},
        }
    )
    plan = make_plan(config, filmed)
    run = Run.create(tmp_path / "runs" / "pain", plan)
    ledger = run.ledger()
    trial = ledger.ask(sampler_for(config))
    torch.manual_seed(4)
    network = fresh_student(plan, config)
    # One pass sets BatchNorm's statistics, so that the answers differ as those of a trained student do.
    faces = filmed.features("face")
    with torch.no_grad():
        network.train()({"face": torch.from_numpy(faces.gather())})  # type: ignore[union-attr]
    save_tensors(run.trial(0) / BEST, network.state_dict(), {"best": {"epoch": 1, "best": 0.5, "accuracy": 0.5}})
    ledger.complete(trial.number, 0.5, {"epochs": 1})

    write_best(run, plan, filmed, 0)
    scored, _ = _exported(run, plan, filmed, 0, tested=True)
    assert set(scored) == {"validation", "test"}

    def no_graphs(folder: Path, *_: object) -> None:
        """They are compared elsewhere, and take long for 75 frames."""
        for name in ("model.onnx", "model.pt2"):
            (folder / name).write_bytes(b"graph")

    monkeypatch.setattr(student, "write_graphs", no_graphs)
    folder = export_student(run, tmp_path / "student")
    assert "pkdray predict student video.mp4" in (folder / "README.md").read_text(encoding="utf-8")

    expected = pd.read_parquet(run.best / "predictions.val.parquet").set_index("sample_id")
    test = pd.read_parquet(run.best / "predictions.test.parquet").set_index("sample_id")
    assert len(expected) >= 2
    asked = pkdray.load_student(folder)
    columns = ["p_BL1", "p_PA4"]
    for name, row in pd.concat([expected, test]).iterrows():
        (path,) = (tmp_path / "biovid").rglob(f"{name}.mp4")
        table = asked.predict_recording(path)
        assert table["start_s"].tolist() == [0, 1, 2]
        np.testing.assert_allclose(table[columns].to_numpy()[2], row[columns].astype(float), rtol=1e-4, atol=1e-5)
        assert table["prediction"][2] == row["prediction"]
    assert expected["p_PA4"].std() > 1e-6, "the samples are told apart"
