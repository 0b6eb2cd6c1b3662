"""A scan becomes a dataset: whole or not at all, going on where it was stopped, and it says what became of a sample."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import media_writers as writers
import numpy as np
import pandas as pd
import pytest
import replicas
from patience import PATIENCE_SECONDS

from pkdray.data.dataset import open_dataset
from pkdray.data.importers import build
from pkdray.data.importers.build import ImportProgress, Plan, make_plan, media_options, run_import, scan_for
from pkdray.data.importers.extract import MODALITIES, MediaOptions
from pkdray.data.importers.windows import options_for
from pkdray.errors import DatasetError, StorageError

SUBJECTS = replicas.BIOVID_SUBJECTS[:4]
AFF = (
    replicas.AffVideo("video1", "Train_Set", 97, invalid=(64,), faceless=(3, 4, 36)),
    replicas.AffVideo("video5_left", "Train_Set", 64, batch="batch2", faceless=tuple(range(1, 33))),
    replicas.AffVideo("video5_right", "Train_Set", 64, batch="batch2"),
    replicas.AffVideo("video9", "Train_Set", 23, batch="new_vids", new=True),
    replicas.AffVideo("video77", "Validation_Set", 71, suffix=".avi", more_frames=-1),
)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three sets, not to be changed."""
    root = tmp_path_factory.mktemp("originals")
    replicas.write_biovid_replica(
        root / "biovid", subjects=SUBJECTS, levels=("BL1", "PA4"), each=1, make_video=writers.make_video
    )
    replicas.write_affwild2_replica(
        root / "affwild2", videos=AFF, make_video=writers.make_sounding_video, make_image=writers.make_image
    )
    replicas.write_recola_replica(
        root / "recola",
        people=("train_1", "train_2", "dev_1", "test_1"),
        rows=53,
        make_video=writers.make_video,
        make_audio=writers.make_audio,
    )
    return root


@pytest.fixture
def roots(originals: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    shutil.copytree(originals, tmp_path / "sets")
    return tmp_path / "sets"


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each sample was made."""
    counts: Counter[str] = Counter()
    extract = build.extract

    def counted(name: str, one: Any, *rest: Any) -> Any:
        counts[one.sample_id] += 1
        return extract(name, one, *rest)

    monkeypatch.setattr(build, "extract", counted)
    return counts


def planned(
    root: Path, dest: Path, protocol: str | None = None, modalities: tuple[str, ...] = (), **making: Any
) -> Plan:
    name = root.name
    scan, chosen = scan_for(name, root, modalities)
    options = media_options(scan, chosen, **{"every": 25, "size": 33, **making})
    return make_plan(dest, scan, options, protocol=protocol or scan.protocols[0])


@pytest.fixture
def biosignals(roots: Path, tmp_path: Path) -> Callable[..., Plan]:
    """The plan of an import that takes no time: BioVid's skin conductance alone."""

    def plan(dest: str = "out", **about: Any) -> Plan:
        return planned(roots / "biovid", tmp_path / dest, modalities=("gsr",), **about)

    return plan


def made_with(root: Path, folder: Path) -> MediaOptions:
    return planned(root, folder / "again").options


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "sets")


def test_biovid_becomes_a_dataset(originals: Path, tmp_path: Path, extractions: Counter[str]) -> None:
    told: list[ImportProgress] = []
    made = run_import(planned(originals / "biovid", tmp_path / "out"), told.append)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.fingerprint == made.dataset.fingerprint
    assert dataset.info.classes == ("BL1", "PA4")
    assert dataset.features("face").shape == (8, 75, 33, 33, 3)
    assert dataset.info.recordings is not None
    assert options_for(dataset.info.recordings, MODALITIES["biovid"]) == made_with(originals / "biovid", tmp_path)
    for name in ("emg", "ecg", "gsr"):
        assert dataset.features(name).shape == (8, 127, 65)
    assert dataset.folds == 4
    np.testing.assert_array_equal(dataset.targets(), [0 if "BL1" in one else 1 for one in dataset.samples["sample_id"]])
    assert set(extractions.values()) == {1}
    assert [(one.done, one.kept, one.failed, one.total) for one in told] == [(k, 0, 0, 8) for k in range(9)]
    assert left_behind(tmp_path) == ["out", "out.report.csv"]
    table = pd.read_csv(tmp_path / "out.report.csv")
    assert list(table["sample_id"]) == sorted(dataset.samples["sample_id"])
    assert set(table["state"]) == {"imported"}
    assert set(table["faces"]) == {75}
    assert dict(made.counts)["faces"] == 8 * 75


def test_affwild2_becomes_a_dataset_less_the_clip_without_a_face(originals: Path, tmp_path: Path) -> None:
    made = run_import(planned(originals / "affwild2", tmp_path / "out"))
    dataset = open_dataset(tmp_path / "out")
    # 4 clips of video1 less the one whose label is invalid, 2 of each side of video5 less one, 1 of video9, 3 of dev.
    assert len(dataset) == 3 + 3 + 1 + 3
    assert list(made.failures) == ["video5_left-00032"]
    assert "No face was found" in made.failures["video5_left-00032"]
    assert dataset.features("face").shape == (10, 8, 33, 33, 3)
    assert dataset.features("voice").shape == (10, 107, 64)
    samples = dataset.samples.set_index("sample_id")
    assert set(samples.loc[samples["subject_id"] == "video77", "split"]) == {"test"}
    assert set(samples["split"]) == {"train", "val", "test"}
    values = replicas.aff_values(97)
    row = list(samples.index).index("video1-00096")
    np.testing.assert_allclose(dataset.targets()[row], values[95], atol=1e-6)
    table = pd.read_csv(tmp_path / "out.report.csv").set_index("sample_id")
    assert table.loc["video5_left-00032", "state"] == "left out"
    assert "No face" in table.loc["video5_left-00032", "reason"]
    assert table.loc["video9-00023", ["frames", "faces", "retained"]].tolist() == [6, 6, 0], "two of eight are padding"


def test_affwild2_in_windows_is_a_dataset_with_a_label_a_clip(originals: Path, tmp_path: Path) -> None:
    scan, chosen = scan_for("affwild2", originals / "affwild2", window=3)
    options = media_options(scan, chosen, size=33)
    made = run_import(make_plan(tmp_path / "out", scan, options, protocol="train/dev"))
    dataset = open_dataset(tmp_path / "out")
    # video1 has four clips, so two windows; the others have two or three (or one), so one each.
    assert len(dataset) == len(made.dataset) == 6
    assert not made.failures
    assert (dataset.info.target_frames, dataset.info.missing_targets) == (3, True)
    assert dataset.features("face").shape == (6, 3, 8, 33, 33, 3)
    assert dataset.features("voice").shape == (6, 3, 107, 64, 1)
    targets = dict(zip(dataset.samples["sample_id"], dataset.targets(), strict=True))
    values = replicas.aff_values(97)
    np.testing.assert_allclose(targets["video1-w000"][[0, 2]], values[[31, 95]], atol=1e-6)
    assert np.isnan(targets["video1-w000"][1]).all()
    np.testing.assert_allclose(targets["video1-w001"][2], values[96], atol=1e-6)
    assert np.isnan(targets["video1-w001"][:2]).all()
    # 4 + 2 + 2 + 1 + 3 clips, of which one is invalid.
    assert made.counts["unlabelled frames"] == 6 * 3 - 11
    assert np.isnan(dataset.targets()).all(axis=-1).sum() == 6 * 3 - 11
    # Padding counts for nothing, and a clip that is repeated in front of a short video once.
    table = pd.read_csv(made.report).set_index("sample_id")
    assert table["frames"].to_dict() == {
        "video1-w000": 24,
        "video1-w001": 24,
        "video5_left-w000": 16,
        "video5_right-w000": 16,
        "video77-w000": 24,
        "video9-w000": 6,
    }
    assert (table["faces"] + table["retained"] == table["frames"]).all()
    assert made.counts["faces"] == table["faces"].sum()
    # The clips of a window are those of the dataset of clips.
    single = run_import(planned(originals / "affwild2", tmp_path / "clips")).dataset
    row = list(single.samples["sample_id"]).index("video77-00064")
    window = list(dataset.samples["sample_id"]).index("video77-w000")
    np.testing.assert_array_equal(
        dataset.features("face")[[window]].gather()[0, 1], single.features("face")[[row]].gather()[0]
    )
    np.testing.assert_array_equal(dataset.features("voice")[window, 1, ..., 0], single.features("voice")[row])


def test_black_pictures_keep_the_clip_without_a_face(originals: Path, tmp_path: Path) -> None:
    made = run_import(planned(originals / "affwild2", tmp_path / "out", gaps="black"))
    assert len(made.dataset) == 11
    assert not made.failures


def test_recola_becomes_a_dataset_with_a_label_a_frame(originals: Path, tmp_path: Path) -> None:
    made = run_import(planned(originals / "recola", tmp_path / "out"))
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset) == len(made.dataset) == 6
    assert dataset.info.target_frames == 25
    frames = {name: one.frames for name, one in dataset.info.modalities.items()}
    # A spectrogram is one picture of its second.
    assert frames == {"face": 25, "voice": None, "ecg": 25, "eda": 25}
    assert dataset.features("voice").shape == (6, 100, 64, 1)
    assert dataset.features("ecg").shape == (6, 25, 10)
    assert dataset.features("face").shape == (6, 25, 33, 33, 3)
    row = list(dataset.samples["sample_id"]).index("train_2-001")
    np.testing.assert_allclose(dataset.targets()[row], replicas.recola_gold("train_2", 53)[25:50], atol=1e-6)
    assert set(dataset.samples.loc[dataset.samples["subject_id"] == "dev_1", "split"]) == {"test"}


def test_recola_without_biosignals_is_faces_and_voices(roots: Path, tmp_path: Path) -> None:
    shutil.rmtree(roots / "recola" / "recordings_physio")
    scan, chosen = scan_for("recola", roots / "recola")
    assert chosen == ("face", "voice")
    assert len(scan.recordings) == 6


def test_a_clip_with_labels_in_a_part_of_it_stays(roots: Path, tmp_path: Path) -> None:
    path = roots / "recola" / "ratings_gold_standard" / "valence" / "train_1.arff"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([line if ",0.40," not in line else "train_1,0.40,?" for line in lines]))
    plan = planned(roots / "recola", tmp_path / "out", modalities=("ecg",))
    assert plan.info.missing_targets
    made = run_import(plan)
    assert made.counts["unlabelled frames"] == 1
    dataset = open_dataset(tmp_path / "out")
    row = list(dataset.samples["sample_id"]).index("train_1-000")
    # Valence alone is unknown at 0.40 s, the eleventh label.
    assert np.argwhere(np.isnan(dataset.targets())).tolist() == [[row, 10, 0]]
    assert (
        "unlabelled frames" not in run_import(planned(roots / "biovid", tmp_path / "other", modalities=("gsr",))).counts
    )


def test_the_delay_is_taken_out_of_the_labels(originals: Path, tmp_path: Path) -> None:
    scan, _ = scan_for("recola", originals / "recola", ("ecg",))
    options = build.MediaOptions(("ecg",))
    late = build.without_delay(scan, 0.4)
    # 53 labels less 10 end at label 43, within the second clip.
    assert len(late.recordings) == 6
    dataset = run_import(make_plan(tmp_path / "out", late, options, protocol="train/dev", notes="Shifted.")).dataset
    assert dataset.info.notes.endswith("Shifted.")
    row = list(dataset.samples["sample_id"]).index("train_2-000")
    np.testing.assert_allclose(dataset.targets()[row], replicas.recola_gold("train_2", 53)[10:35], atol=1e-6)
    last = dataset.targets()[list(dataset.samples["sample_id"]).index("train_2-001")]
    np.testing.assert_allclose(last[:18], replicas.recola_gold("train_2", 53)[35:53], atol=1e-6)
    assert np.isnan(last[18:]).all()
    # A second later only 28 labels are left, a second and a half later none of the second clip.
    assert [len(build.without_delay(scan, delay).recordings) for delay in (1.0, 1.2)] == [6, 3]
    assert len(build.without_delay(scan, 0.0).recordings) == 6
    with pytest.raises(DatasetError, match="biovid has no tracks of labels"):
        build.without_delay(scan_for("biovid", originals / "biovid", ("gsr",))[0], 0.4)


def test_a_corrupt_video_in_the_middle_leaves_out_one_sample(roots: Path, tmp_path: Path) -> None:
    path = sorted((roots / "biovid" / "video").glob("*/*.mp4"))[3]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    made = run_import(planned(roots / "biovid", tmp_path / "out"))
    assert list(made.failures) == [path.stem]
    assert path.name in made.failures[path.stem]
    assert len(open_dataset(tmp_path / "out")) == 7
    table = pd.read_csv(made.report).set_index("sample_id")
    assert table.loc[path.stem, "state"] == "left out"
    assert (table["state"] == "imported").sum() == 7


def test_a_stopped_import_goes_on_where_it_was(
    biosignals: Callable[..., Plan], tmp_path: Path, extractions: Counter[str]
) -> None:
    def stop(progress: ImportProgress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_import(biosignals(), stop)
    assert left_behind(tmp_path) == ["out.partial"]
    assert sum(extractions.values()) == 3
    told: list[ImportProgress] = []
    made = run_import(biosignals(), told.append)
    assert (told[0].done, told[0].kept) == (3, 3)
    assert set(extractions.values()) == {1}
    assert sum(extractions.values()) == 8
    assert left_behind(tmp_path) == ["out", "out.report.csv"]
    # The report of a sample comes from its file, whichever attempt made it.
    assert set(pd.read_csv(made.report)["state"]) == {"imported"}
    assert run_import(biosignals(dest="at once")).dataset.fingerprint == made.dataset.fingerprint


def stopped(plan: Plan, after: int) -> None:
    def stop(progress: ImportProgress) -> None:
        if progress.done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_import(plan, stop)


def finished(plan: Plan) -> list[Path]:
    return sorted((plan.partial / "samples").rglob("*.npz"))


@pytest.mark.parametrize("damage", ["cut short", "empty", "another sample's"])
def test_a_file_that_is_not_whole_is_made_again(
    biosignals: Callable[..., Plan], extractions: Counter[str], damage: str
) -> None:
    plan = biosignals()
    stopped(plan, 5)
    victim, other, *_ = finished(plan)
    content = victim.read_bytes()
    victim.write_bytes({"cut short": content[:-41], "empty": b"", "another sample's": other.read_bytes()}[damage])
    run_import(biosignals())
    assert extractions.pop(victim.stem) == 2
    assert set(extractions.values()) == {1}


def test_a_kill_in_the_middle_of_a_write_leaves_no_sample(
    biosignals: Callable[..., Plan], extractions: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: Any, **_: Any) -> None:
        file.write(b"PK half of it")
        raise KeyboardInterrupt

    plan = biosignals()
    stopped(plan, 2)
    with monkeypatch.context() as patch:
        patch.setattr(build.np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            run_import(plan)
    assert len(finished(plan)) == 2
    run_import(biosignals())
    assert sorted(extractions.values()) == [1] * 7 + [2]


def test_damage_inside_a_file_is_found_when_it_is_read(
    biosignals: Callable[..., Plan], extractions: Counter[str], tmp_path: Path
) -> None:
    plan = biosignals()
    stopped(plan, 8)
    victim = finished(plan)[2]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 255
    victim.write_bytes(content)
    made = run_import(biosignals())
    assert extractions[victim.stem] == 2
    rows = list(made.dataset.samples["sample_id"])
    values = open_dataset(tmp_path / "out").features("gsr")[rows.index(victim.stem)]
    fresh = run_import(biosignals(dest="fresh")).dataset.features("gsr")
    np.testing.assert_array_equal(values, fresh[rows.index(victim.stem)])


def test_a_recording_that_was_replaced_is_made_again(
    biosignals: Callable[..., Plan], roots: Path, extractions: Counter[str]
) -> None:
    plan = biosignals()
    stopped(plan, 5)
    victim = finished(plan)[0].stem
    path = next((roots / "biovid").rglob(f"{victim}_bio.csv"))
    path.write_text(path.read_text().replace("\t0.0\n", "\t0.00\n"))
    run_import(biosignals())
    assert extractions[victim] == 2
    assert sum(extractions.values()) == 9


def test_a_changed_option_is_refused_with_what_it_was(biosignals: Callable[..., Plan], tmp_path: Path) -> None:
    stopped(biosignals(), 2)
    with pytest.raises(DatasetError, match="started with other options than these") as caught:
        biosignals(biosignals="waveform")
    assert caught.value.details == ("biosignals was spectrogram, now it is waveform.",)
    assert "out.partial" in str(caught.value.cure)
    assert left_behind(tmp_path) == ["out.partial"]


def test_another_protocol_uses_what_is_finished(
    biosignals: Callable[..., Plan], roots: Path, extractions: Counter[str]
) -> None:
    stopped(biosignals(), 5)
    made = run_import(biosignals(protocol="5-fold"))
    assert made.dataset.info.name == "biovid 5-fold"
    assert set(extractions.values()) == {1}


def test_a_trial_with_a_limit_is_no_waste(
    roots: Path, tmp_path: Path, extractions: Counter[str], biosignals: Callable[..., Plan]
) -> None:
    plan = biosignals()
    few = make_plan(plan.dest, plan.scan.limited(6), plan.options, protocol="loso")
    assert len(few.scan.recordings) == 6
    stopped(few, 6)
    run_import(biosignals())
    assert sum(extractions.values()) == 8


def test_a_kill_before_it_is_published_costs_no_sample(
    biosignals: Callable[..., Plan], tmp_path: Path, extractions: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_dataset", killed)
        with pytest.raises(KeyboardInterrupt):
            run_import(biosignals())
    assert not (tmp_path / "out").exists()
    # What was being assembled may be cut anywhere.
    (tmp_path / "out.partial" / "arrays" / "gsr.npy").write_bytes(b"\x93NUMPY")
    run_import(biosignals())
    assert set(extractions.values()) == {1}
    assert len(open_dataset(tmp_path / "out")) == 8


def killed_after_publishing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build.Work, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            run_import(plan)
    assert plan.partial.is_dir()


def test_a_kill_after_it_is_published_leaves_a_folder_that_the_next_run_removes(
    biosignals: Callable[..., Plan],
    roots: Path,
    tmp_path: Path,
    extractions: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One sample cannot be made, and the second run has to know it all the same.
    victim = next((roots / "biovid").rglob("*-PA4-*_bio.csv"))
    table = pd.read_csv(victim, sep="\t")
    table[table.columns[1]] = 0
    table.to_csv(victim, sep="\t", index=False)
    killed_after_publishing(biosignals(), monkeypatch)
    before = open_dataset(tmp_path / "out").fingerprint
    # It was killed in the middle of removing the folder.
    shutil.rmtree(tmp_path / "out.partial" / "samples")
    extractions.clear()
    made = run_import(biosignals())
    assert made.leftover
    assert not extractions
    assert made.dataset.fingerprint == before
    assert dict(made.counts) == {"samples": 7, "left out": 1}
    assert "Channel gsr is dead" in made.failures[victim.name.removesuffix("_bio.csv")]
    assert left_behind(tmp_path) == ["out", "out.report.csv"]
    # Now it is a dataset like any other.
    with pytest.raises(DatasetError, match="exists and is not an empty folder"):
        biosignals()


@pytest.mark.parametrize("change", ["protocol", "recording", "dataset"])
def test_a_leftover_beside_another_dataset_is_not_touched(
    change: str, biosignals: Callable[..., Plan], roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_publishing(biosignals(), monkeypatch)
    if change == "recording":
        path = next((roots / "biovid").rglob("*_bio.csv"))
        path.write_text(path.read_text().replace("\t0.0\n", "\t0.00\n"))
    if change == "dataset":
        shutil.rmtree(tmp_path / "out")
        replicas_dataset = run_import(biosignals(dest="other", biosignals="waveform"))
        shutil.copytree(replicas_dataset.dataset.path, tmp_path / "out")
    plan = biosignals(protocol="5-fold" if change == "protocol" else None)
    with pytest.raises(DatasetError, match="exists and is not an empty folder"):
        run_import(plan)
    assert plan.partial.is_dir()
    assert (tmp_path / "out" / "dataset.yaml").is_file()


def test_where_nothing_can_be_made_nothing_is_published(roots: Path, tmp_path: Path) -> None:
    for path in (roots / "biovid").rglob("*_bio.csv"):
        table = pd.read_csv(path, sep="\t")
        table[table.columns[1]] = 0
        table.to_csv(path, sep="\t", index=False)
    plan = planned(roots / "biovid", tmp_path / "out", modalities=("gsr",))
    with pytest.raises(DatasetError, match="None of the 8 samples could be made") as caught:
        run_import(plan)
    assert "Channel gsr is dead" in caught.value.details[0]
    assert left_behind(tmp_path) == ["out.partial"]


def test_what_cannot_work_is_refused_before_anything_is_read(
    biosignals: Callable[..., Plan], roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatasetError, match="has no protocol 'lose'"):
        biosignals(protocol="lose")
    with pytest.raises(DatasetError, match=r"emg_corrugator is dead in all of BioVid's part A"):
        planned(roots / "biovid", tmp_path / "out", emg="emg_corrugator")
    (tmp_path / "out").mkdir()
    assert biosignals().dest.is_dir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(DatasetError, match="exists and is not an empty folder"):
        biosignals()
    (tmp_path / "out" / "mine.txt").unlink()
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").touch()
    with pytest.raises(DatasetError, match="is not the work folder of an import"):
        biosignals()
    assert (tmp_path / "out.partial" / "mine.txt").exists()
    shutil.rmtree(tmp_path / "out.partial")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"file is a file, so .*file/out cannot be made"):
        biosignals(dest="file/out")
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"takes up to 0.0 GB while it runs; 0.0 GB are free"):
        biosignals()


def test_the_manifest_says_what_it_is(biosignals: Callable[..., Plan]) -> None:
    plan = biosignals()
    stopped(plan, 1)
    said = json.loads((plan.partial / "manifest.json").read_text())
    assert said["options"]["set"] == "biovid"
    assert said["options"]["modalities"] == ["gsr"]
    assert len(said["scan"]) == 16
    assert "run the same command again" in said["about"]


def test_a_scan_and_a_plan_need_neither_torch_nor_a_decoder() -> None:
    code = "import sys, pkdray.data.importers.build; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert not set(ran.stdout.split()) & {"torch", "torchaudio", "facenet_pytorch", "av", "ray", "scipy", "PIL"}
