"""The annotators' delay, estimated on training recordings alone."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicas
from command_line import Said

from pkdray.data.dataset import open_dataset
from pkdray.data.importers import recola
from pkdray.data.importers.build import scan_for
from pkdray.data.importers.delays import curve, estimate_lines, loudness, without_estimated_delay
from pkdray.data.media.delay import DelayEstimate
from pkdray.errors import DatasetError

PEOPLE = ("train_1", "train_2", "train_3", "train_10", "dev_1", "dev_2")
ROWS = 601
LAGS = {**dict.fromkeys(PEOPLE[:4], 2.8), "dev_1": 5.2, "dev_2": 5.2}


def arousal_of(person: str) -> np.ndarray:
    """What is heard, once a label: a slow walk in [-1, 1]."""
    rng = np.random.default_rng(PEOPLE.index(person))
    walk = np.convolve(rng.normal(size=ROWS + 24), np.ones(25) / 25, "valid")[:ROWS]
    return walk / np.abs(walk).max()


def write_recola(root: Path, lags: Mapping[str, float], sign: float = 1.0) -> None:
    """RECOLA whose voices are as loud as their people were aroused ``lags`` seconds before it was annotated."""

    def make_audio(path: Path, *, seconds: float, rate: int, **_: Any) -> None:
        loud = np.repeat(10 ** (0.5 * sign * arousal_of(path.stem)), rate // 25)[: round(seconds * rate)]
        noise = np.random.default_rng(1).normal(size=len(loud)) * 0.05
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes((np.clip(loud * noise, -1, 1) * 32767).astype("<i2").tobytes())

    replicas.write_recola_replica(root, people=PEOPLE, rows=ROWS, gold="csv", make_audio=make_audio)
    for person, lag in lags.items():
        shift = round(lag * 25)
        late = np.concatenate([np.zeros(shift), arousal_of(person)])[:ROWS]
        valence = replicas.recola_gold("train_1", ROWS)[:, 0]
        rows = [f"{one:.4f};{other:.4f}" for one, other in zip(late, valence, strict=True)]
        (root / "ratings_gold_standard" / f"{person}.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "recola"
    write_recola(folder, LAGS)
    return folder


def test_a_known_lag_is_recovered_from_train_whatever_dev_says(root: Path) -> None:
    scan, _ = scan_for("recola", root, ("ecg",))
    shifted, estimate = without_estimated_delay(scan, root)
    assert estimate.delay_s == 2.8
    assert list(estimate.scores) == pytest.approx(np.arange(21) * 0.4)
    assert estimate.scores[2.8] > 0.9
    # One of the four training recordings is val, and has no say either.
    split = scan.assign("train/dev").split
    assert set(estimate.sequences) == {one for one in PEOPLE if split[one] == "train"}
    assert len(estimate.sequences) == 3
    # Every split loses the delay that train has.
    one = next(one for one in shifted.recordings if one.sample_id == "dev_2-003")
    np.testing.assert_allclose(one.target, scan.tracks["dev_2"][75 + 70 : 100 + 70], atol=1e-6)
    assert not estimate.at_limit


def test_the_report_and_the_dataset_say_what_was_found(pkdray: Callable[..., Said], root: Path, tmp_path: Path) -> None:
    said = pkdray("data", "import", "recola", str(root), "out", "--modality", "ecg", "--delay", "auto")
    assert said.code == 0, said.err
    line = next(one for one in said.err.splitlines() if one.startswith("Delay: "))
    assert line.startswith("Delay: 2.8 s, by the correlation of loudness with arousal in 3 training recordings: 0 s ")
    assert ", 8 s " in line
    notes = open_dataset(tmp_path / "out").info.notes
    assert "A delay of 2.8 s was taken out of the labels: of 0 to 8 s it has the highest correlation" in notes
    assert line.partition("recordings: ")[2].rstrip(".") in notes
    plain = pkdray("data", "import", "recola", str(root), "plain", "--modality", "ecg", "--dry-run")
    assert "Delay" not in plain.out


def test_without_the_sound_of_train_it_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "recola")
    scan, _ = scan_for("recola", tmp_path / "recola", ("ecg",))
    (tmp_path / "recola" / "recordings_audio" / "dev_1.wav").unlink()
    assert without_estimated_delay(scan, tmp_path / "recola")[1].delay_s == 2.8
    split = scan.assign("train/dev").split
    victim = next(one for one in PEOPLE if split[one] == "train")
    (tmp_path / "recola" / "recordings_audio" / f"{victim}.wav").unlink()
    with pytest.raises(DatasetError, match=f"1 of 3 training recordings have no sound: '{victim}'") as caught:
        without_estimated_delay(scan, tmp_path / "recola")
    assert "give the delay in seconds" in str(caught.value.cure)
    shutil.rmtree(tmp_path / "recola" / "recordings_audio")
    assert recola.audio_files(tmp_path / "recola") == {}
    with pytest.raises(DatasetError, match="3 of 3 training recordings have no sound"):
        without_estimated_delay(scan, tmp_path / "recola")


def test_signals_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    write_recola(tmp_path / "recola", LAGS)
    flat = "\n".join("0.1;0.2" for _ in range(ROWS)) + "\n"
    for path in (tmp_path / "recola" / "ratings_gold_standard").glob("*.csv"):
        path.write_text(flat)
    scan, _ = scan_for("recola", tmp_path / "recola", ("ecg",))
    with pytest.raises(DatasetError, match="are constant"):
        without_estimated_delay(scan, tmp_path / "recola")


def test_loudness_is_the_power_of_each_label_in_decibels(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    levels = np.array([0.5, 0.05, 0.0, 0.25])
    values = np.repeat(levels, 640) * np.where(np.arange(2560) % 2, 1, -1)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        # 100 samples more are no whole label.
        file.writeframes((np.concatenate([values, np.ones(100)]) * 32767).astype("<i2").tobytes())
    expected = 20 * np.log10(np.maximum(levels, 1e-5))
    np.testing.assert_allclose(loudness(path, 25.0), expected, atol=0.01)


def test_the_longest_delay_is_said_to_be_doubtful() -> None:
    scores = {0.0: 0.1, 0.4: 0.25}
    assert curve(DelayEstimate(0.4, scores, "correlation", ("train_1",))) == "0 s 0.100, 0.4 s 0.250"
    lines = estimate_lines(DelayEstimate(0.4, scores, "correlation", ("train_1",)))
    assert "the true one may be longer" in lines[1]
    assert len(estimate_lines(DelayEstimate(0.0, scores, "correlation", ("train_1",)))) == 1
