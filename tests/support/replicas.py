"""Miniature BioVid, Aff-Wild2 and RECOLA in exactly the layouts of the licensed sets, traps included.

Text files are real: the tabs, the microseconds, the blanks in headers, the -5 rows, the lengths that do not match.
Media are a few bytes unless a writer is passed in, so that a scan is tested without a codec and an import with one:

* ``make_video(path, *, seconds, rate, level)``: a video of ``rate`` frames a second.
* ``make_audio(path, *, seconds, rate, level)``: a sound of ``rate`` samples a second.
* ``make_image(path, *, size, level)``: a picture of ``size`` (height, width).

``level`` in [0, 1] is what the label is about (pain, arousal), for a writer that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Writer = Callable[..., None]

LEVELS = ("BL1", "PA1", "PA2", "PA3", "PA4")
CHANNELS = ("gsr", "ecg", "emg_trapezius", "emg_corrugator", "emg_zygomaticus")
# Two of neither list, one of both, one who hardly reacts, one who is reported by 61-26, and two of neither again.
BIOVID_SUBJECTS = (
    "071309_w_21",
    "080609_w_27",
    "100914_m_39",
    "082414_m_64",
    "112016_m_25",
    "072414_m_23",
    "111409_w_63",
)


def placeholder(path: Path, **_: Any) -> None:
    """Bytes that no decoder takes."""
    path.write_bytes(b"not a recording")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make(writer: Writer | None, path: Path, **about: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (writer or placeholder)(path, **about)


@lru_cache(maxsize=64)
def signal_text(rows: int, level: float, dead: tuple[str, ...] = ()) -> str:
    """Biosignals at 512 Hz: tabs, microseconds, blanks in the header."""
    time = np.arange(rows) / 512
    rng = np.random.default_rng(round(level * 97) + rows)
    columns = {name: (1 + level) * np.sin((3 + index) * time) for index, name in enumerate(CHANNELS)}
    columns = {name: values + 0.1 * rng.normal(size=rows) for name, values in columns.items()}
    columns.update({name: np.zeros(rows) for name in dead})
    lines = ["time\tgsr \t ecg\temg_trapezius\temg_corrugator \temg_zygomaticus"]
    stamps = np.round(time * 1e6).astype(int)
    lines += [
        "\t".join(map(str, row))
        for row in zip(stamps.tolist(), *np.round(list(columns.values()), 4).tolist(), strict=True)
    ]
    return "\n".join(lines) + "\n"


def biovid_number(level: str, index: int) -> int:
    """As in the set: stimuli have the numbers 1 to 80, baselines 81 to 100."""
    return 81 + index if level == "BL1" else 1 + index * 4 + LEVELS.index(level) - 1


def write_biovid_replica(
    root: Path,
    *,
    part: str = "A",
    subjects: Sequence[str] = BIOVID_SUBJECTS,
    levels: Sequence[str] = LEVELS,
    each: int = 2,
    signals: str = "filtered",
    nested: bool = False,
    dead: Sequence[str] | None = None,
    make_video: Writer | None = None,
) -> list[str]:
    """Part A or B; gives the samples' names."""
    dead = ("emg_corrugator", "emg_zygomaticus") if dead is None and part == "A" else tuple(dead or ())
    bio = root / f"biosignals_{signals}"
    if nested:
        bio = bio / bio.name
    samples, table = [], ["subject_id\tsubject_name\tclass_id\tclass_name\tsample_id\tsample_name"]
    for subject_id, subject in enumerate(subjects):
        for class_id, level in enumerate(LEVELS):
            if level not in levels:
                continue
            for index in range(each):
                sample = f"{subject}-{level}-{biovid_number(level, index):03d}"
                # A clip has 137 or 138 frames and 2,815 to 2,817 rows.
                frames = 137 + len(samples) % 2
                rows = 2815 + len(samples) % 3
                make(
                    make_video,
                    root / "video" / subject / f"{sample}.mp4",
                    seconds=frames / 25,
                    rate=25,
                    level=class_id / 4,
                )
                write(bio / subject / f"{sample}_bio.csv", signal_text(rows, class_id / 4, tuple(dead)))
                table.append(f"{subject_id + 1}\t{subject}\t{class_id}\t{level}\t{len(samples) + 1}\t{sample}")
                samples.append(sample)
    write(root / "starting_point" / "samples.csv", "\n".join(table) + "\n")
    write(root / "temperature" / "readme.txt", "not read\n")
    write(root / "video" / ".DS_Store", "\0")
    return samples


def write_biovid_part_c_replica(
    root: Path,
    *,
    subjects: Sequence[str] = BIOVID_SUBJECTS[:3],
    runs: Sequence[tuple[int, float]] = ((0, 9.0), (4, 4.0), (0, 8.0), (2, 4.0), (0, 3.0), (4, 4.0), (0, 12.0)),
    scale: float = 1e6,
    make_video: Writer | None = None,
) -> None:
    """The continuous part: ``runs`` of (level, seconds); ``scale`` 1e6 for microseconds, 1 for seconds."""
    seconds = sum(length for _, length in runs)
    times, labels, start = [], [], 0.0
    for level, length in runs:
        steps = start + np.arange(round(length * 25)) / 25
        times += steps.tolist()
        labels += [level] * len(steps)
        start += length
    stamps = [f"{time * scale:.0f}" if scale > 1 else f"{time:.2f}" for time in times]
    stimulus = "time\tlabel \n" + "".join(f"{time}\t{label}\n" for time, label in zip(stamps, labels, strict=True))
    temperature = "time\ttemperature\n" + "".join(
        f"{time}\t{32 + 4 * label}\n" for time, label in zip(stamps, labels, strict=True)
    )
    for subject in subjects:
        make(make_video, root / "video" / f"{subject}.mp4", seconds=seconds, rate=25, level=0.5)
        write(root / "biosignals_raw" / f"{subject}.csv", signal_text(round(seconds * 512), 0.5))
        write(root / "stimulus" / f"{subject}.csv", stimulus)
        write(root / "temperature" / f"{subject}.csv", temperature)


def write_biovid_precut_replica(
    root: Path,
    *,
    subjects: Sequence[str] = BIOVID_SUBJECTS,
    levels: Sequence[str] = ("BL1", "PA4"),
    each: int = 2,
    numbered: bool = True,
    images: int = 75,
    span: tuple[int, int] = (1, 75),
    rows: int = 2816,
    make_image: Writer | None = None,
) -> list[str]:
    """Images by class; ``numbered`` folders are 0 and 4, else BL1 and PA4. Gives the samples' names."""
    samples, lines = [], []
    for level in levels:
        folder = str(LEVELS.index(level)) if numbered else level
        for subject in subjects:
            for index in range(each):
                sample = f"{subject}-{level}-{biovid_number(level, index):03d}"
                for number in range(1, images + 1):
                    make(
                        make_image,
                        root / folder / sample / f"img_{number:05d}.jpg",
                        size=(112, 112),
                        level=LEVELS.index(level) / 4,
                    )
                write(root / "physio" / folder / f"{sample}_bio.csv", signal_text(rows, LEVELS.index(level) / 4))
                lines.append(f"{folder}/{sample} {span[0]} {span[1]} {0 if level == 'BL1' else 1}")
                samples.append(sample)
    write(root / "annotations_filtered.txt", "\n".join(lines) + "\n")
    return samples


@dataclass(frozen=True)
class AffVideo:
    """One annotated face of a video: ``name`` with ``_left`` or ``_right`` where two are seen."""

    name: str
    part: str
    frames: int
    batch: str = "batch1"
    suffix: str = ".mp4"
    new: bool = False
    invalid: tuple[int, ...] = ()
    faceless: tuple[int, ...] = ()
    more_images: int = 0
    more_frames: int = 0
    faces: bool = True
    media: bool = True


AFF_VIDEOS = (
    AffVideo("video1", "Train_Set", 97, invalid=(1, 2, 64), faceless=(3, 4, 5, 33)),
    AffVideo("7-60-1920x1080", "Train_Set", 71, batch="batch2", suffix=".avi", more_images=3, more_frames=3),
    AffVideo("video5_left", "Train_Set", 64, batch="batch2", faceless=tuple(range(1, 33))),
    AffVideo("video5_right", "Train_Set", 64, batch="batch2", more_frames=-1),
    AffVideo("video9", "Train_Set", 23, batch="new_vids", new=True),
    AffVideo("13-30-1920x1080", "Train_Set", 128, batch="new_vids", new=True),
    AffVideo("video77", "Validation_Set", 545, invalid=(32,)),
    AffVideo("video8_right", "Validation_Set", 47, batch="new_vids", suffix=".avi", new=True),
)


def aff_values(frames: int) -> np.ndarray:
    """Valence and arousal of each frame, [frames, 2], as text would round them."""
    time = np.arange(1, frames + 1)
    return np.round(np.stack([np.sin(time / 17) * 0.8, np.cos(time / 29) * 0.5], axis=1), 3)


def write_affwild2_replica(
    root: Path,
    *,
    videos: Sequence[AffVideo] = AFF_VIDEOS,
    prefix: str = "6th ABAW Annotations",
    track: str = "VA_Estimation_Challenge",
    nested_faces: bool = False,
    make_video: Writer | None = None,
    make_image: Writer | None = None,
) -> None:
    """Annotations, both folders of faces and the three of media, with the files that macOS leaves behind."""
    faces = root / "cropped_aligned" if nested_faces else root
    for video in videos:
        values = aff_values(video.frames)
        rows = [f"{valence:g},{arousal:g}" for valence, arousal in values]
        for frame in video.invalid:
            rows[frame - 1] = "-5,-5"
        write(root / prefix / track / video.part / f"{video.name}.txt", "\n".join(["valence,arousal", *rows]) + "\n")
        folder = faces / ("cropped_aligned_new_50_vids" if video.new else "cropped_aligned") / video.name
        if video.faces:
            write(folder / ".DS_Store", "\0")
            for frame in range(1, video.frames + video.more_images + 1):
                if frame not in video.faceless:
                    level = float(abs(values[min(frame, video.frames) - 1, 1]))
                    make(make_image, folder / f"{frame:05d}.jpg", size=(112, 112), level=level)
        stem = video.name.removesuffix("_left").removesuffix("_right")
        path = root / video.batch / f"{stem}{video.suffix}"
        if video.media and not path.exists():
            make(make_video, path, seconds=(video.frames + video.more_frames) / 30, rate=30, level=0.5)
    write(root / prefix / track / "Train_Set" / ".DS_Store", "\0")
    write(root / "batch1" / "._video1.mp4", "\0")
    (faces / "cropped_aligned").mkdir(parents=True, exist_ok=True)
    write(faces / "cropped_aligned" / ".DS_Store", "\0")


RECOLA_PEOPLE = ("train_1", "train_2", "train_3", "train_10", "dev_1", "dev_2", "dev_3", "test_1", "test_2")


def recola_gold(person: str, rows: int) -> np.ndarray:
    """Valence and arousal at 25 Hz, [rows, 2]."""
    shift = RECOLA_PEOPLE.index(person)
    time = np.arange(rows) / 25
    return np.round(np.stack([0.4 * np.sin(time + shift), 0.3 * np.cos(1.3 * time + shift)], axis=1), 4)


@dataclass(frozen=True)
class RecolaLengths:
    """What does not match, by person: rows of a dimension, frames of the video, rows of physiology."""

    valence: Mapping[str, int] = field(default_factory=dict)
    frames: Mapping[str, int] = field(default_factory=dict)
    physio: Mapping[str, int] = field(default_factory=dict)


def write_recola_replica(
    root: Path,
    *,
    people: Sequence[str] = RECOLA_PEOPLE,
    rows: int = 131,
    gold: str = "arff",
    filtered: bool = True,
    lengths: RecolaLengths | None = None,
    make_video: Writer | None = None,
    make_audio: Writer | None = None,
) -> None:
    """The AVEC layout; ``gold`` is ``arff`` or the headerless ``csv``. The test part has no labels."""
    lengths = lengths or RecolaLengths()
    for person in people:
        values = recola_gold(person, rows)
        seconds = (rows - 1) / 25
        make(make_audio, root / "recordings_audio" / f"{person}.wav", seconds=seconds, rate=16000, level=0.5)
        make(make_video, root / "recordings_video" / f"{person}.mp4", seconds=seconds, rate=25, level=0.5)
        frames = lengths.frames.get(person, rows - 1)
        times = "".join(f"{index};{index / 25:.3f}\n" for index in range(frames))
        write(root / "recordings_video_frame_time" / f"{person}.csv", "frame;frametime\n" + times)
        physio = root / "recordings_physio" / ("filtered" if filtered else "") / f"{person}.csv"
        count = lengths.physio.get(person, (rows - 1) * 10)
        beats = np.round(np.sin(np.arange(count) / 40), 3)
        lines = [f"{index / 250:.3f};{beat};{beat / 2};{70 + beat}" for index, beat in enumerate(beats.tolist())]
        write(physio, "time;ECG;EDA ;HR\n" + "\n".join(lines) + "\n")
        if person.startswith("test"):
            continue
        if gold == "csv":
            pairs = "".join(f"{arousal};{valence}\n" for valence, arousal in values.tolist())
            write(root / "ratings_gold_standard" / f"{person}.csv", pairs)
        for index, name in enumerate(("valence", "arousal")):
            if gold == "arff":
                end = lengths.valence.get(person, rows) if name == "valence" else rows
                body = [f"{person},{row / 25:.2f},{values[row, index]}" for row in range(end)]
                head = [
                    "@relation Gold_Standard",
                    "",
                    "@attribute Instance_name string",
                    "@attribute frameTime numeric",
                    "@attribute GoldStandard numeric",
                    "",
                    "@data",
                    "",
                ]
                write(root / "ratings_gold_standard" / name / f"{person}.arff", "\n".join(head + body) + "\n")
            rated = "".join(f"{row / 25:.2f};{values[row, index]};0.1\n" for row in range(rows))
            write(root / "ratings_individual" / name / f"{person}.csv", "time ;FM1 ;FM2 ;FF1 \n" + rated)
