"""Scan RECOLA as AVEC 2015 and 2016 gave it out: audio, video, physiology and the gold standard at 25 Hz.

Samples are clips of one second with 25 labels each, one every 40 ms. Clips follow one another from the start; the rows
beyond the last whole clip (of 7,501 rows the last) are counted, and so are clips that some recording ends before.

The labels of the test part are withheld: results are reported on dev. The gold standard lags behind what is seen; the
delay is estimated on train and taken out later, by ``relabelled``: the scan keeps the gold standard as it was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pkdray.data.faults import some
from pkdray.data.importers.recordings import (
    Finding,
    Recording,
    Scan,
    check_root,
    entries,
    nothing_left,
    reading,
    unusable,
    wrong_root,
)
from pkdray.errors import DatasetError

TARGETS = ("valence", "arousal")
GOLD_RATE = 25.0
"""Labels a second (Hz): one every 40 ms."""
GOLD_ROWS = 7501
CLIP_LABELS = 25
PHYSIO_RATE = 250.0
"""Rows a second of a physiological recording (Hz)."""

_NAME = re.compile(r"(train|dev|test)_(\d+)")
_GOLD = "ratings_gold_standard"
_RATERS = "ratings_individual"
_AUDIO = "recordings_audio"
_VIDEO = "recordings_video"
_TIMES = "recordings_video_frame_time"
_PHYSIO = "recordings_physio"
_EXPECTED = (
    f"{_GOLD}/{{arousal,valence}}/*.arff",
    f"{_AUDIO}/*.wav",
    f"{_VIDEO}/*.mp4",
    f"{_TIMES}/*.csv",
    f"{_PHYSIO}/*.csv or {_PHYSIO}/filtered/*.csv",
)
_FOLDERS = {"audio": (_AUDIO, ".wav"), "video": (_VIDEO, ".mp4"), "biosignals": (_PHYSIO, ".csv")}

Modality = Literal["video", "audio", "biosignals"]


def scan(
    root: Path,
    *,
    modalities: Sequence[Modality] = ("video", "audio"),
    physio: Literal["filtered", "raw"] | None = None,
) -> Scan:
    """Find RECOLA's one-second clips.

    Every recording has ``sources`` of the ``modalities``, and with video frame_times where there are any; its start and
    end in s; target float32 [25, 2] (valence, arousal); and ``extra["first_row"]``, where the target starts in its
    track. ``Scan.tracks`` has each person's gold standard as read, float32 [T, 2] at 25 Hz.

    Args:
        root: the folder that holds ``ratings_gold_standard`` and the ``recordings_*`` folders.
        modalities: what a sample must have; a person who lacks any of them is left out.
        physio: filtered or raw physiology; None takes the filtered files where there are any.

    Raises:
        DatasetError: the root is not RECOLA's, or no sample is left.
    """
    root = check_root(root)
    if not modalities or any(one not in _FOLDERS for one in modalities):
        raise DatasetError(f"modalities are {list(modalities)}.", cure=f"Choose from {', '.join(_FOLDERS)}.")
    scanner = _Scanner(root, tuple(modalities), physio)
    recordings, tracks = scanner.scan()
    if not recordings:
        what = f"{root} has no labelled clip with {' and '.join(modalities)}."
        raise nothing_left(what, scanner.findings, "Restore the gold standard.")
    return Scan(
        name="recola",
        task="regression",
        targets=TARGETS,
        classes=(),
        recordings=tuple(recordings),
        findings=tuple(scanner.findings),
        found=scanner.found,
        tracks=tracks,
        track_rate=GOLD_RATE,
    )


def relabelled(scan: Scan, tracks: Mapping[str, np.ndarray]) -> Scan:
    """The same clips with labels cut from other tracks, such as the gold standard with its delay taken out.

    A clip with labels for some of its rows alone gets a mask; one without any is left out.

    Args:
        scan: of RECOLA.
        tracks: by sequence_id, float32 [T, 2] with T as in ``scan.tracks``; NaN where there is no label.

    Raises:
        DatasetError: a track is missing or of another shape, or no clip has its labels.
    """
    for name, track in scan.tracks.items():
        shape = tracks[name].shape if name in tracks else None
        if shape != track.shape:
            raise DatasetError(
                f"The new track of {name} has shape {shape}, the scan's has {track.shape}.",
                cure="Give every recording a track of the same length.",
            )
    recordings = []
    lost: dict[str, list[str]] = {}
    for one in scan.recordings:
        first = one.extra["first_row"]
        target = np.array(tracks[one.sequence_id][first : first + CLIP_LABELS], dtype=np.float32)
        mask = _mask(target)
        if mask is not None and not mask.any():
            lost.setdefault(one.sequence_id, []).append(one.sample_id)
            continue
        recordings.append(replace(one, target=target, mask=mask))
    if not recordings:
        raise DatasetError("The new tracks have no clip with labels.", cure="Shift them by less.")
    findings = [
        Finding(
            "no labels",
            name,
            f"{len(samples)} clips of {name} have no label in the new track: {some(samples)}.",
            "left out",
            samples=tuple(samples),
        )
        for name, samples in lost.items()
    ]
    return replace(scan, recordings=tuple(recordings), findings=(*scan.findings, *findings), tracks=dict(tracks))


def _mask(target: np.ndarray) -> np.ndarray | None:
    known = ~np.isnan(target).any(axis=1)
    return None if known.all() else known


def read_gold_arff(path: Path) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """One dimension of the gold standard.

    Args:
        path: attributes Instance_name, frameTime and GoldStandard in any order, rows such as ``train_1,0.00,-0.01``.

    Returns:
        Times in s, float64 [T]; values as they stand, float32 [T], NaN for ``?``; and the instance names.

    Raises:
        DatasetError: the file cannot be read, lacks an attribute or rows, or holds no numbers.
    """
    lines = _lines(path)
    attributes = []
    data: list[str] | None = None
    for line in lines:
        if data is not None:
            if line and not line.startswith("%"):
                data.append(line)
        elif line.lower().startswith("@attribute"):
            attributes.append(line.split()[1].strip("'\"").lower())
        elif line.lower().startswith("@data"):
            data = []
    wanted = ("instance_name", "frametime", "goldstandard")
    missing = [name for name in wanted if name not in attributes]
    if missing or not data:
        what = f"has no attribute {some(missing)}, only {some(attributes)}" if missing else "has no rows"
        raise DatasetError(f"{path} {what}.", cure="Restore it from the original archive.")
    name, time, gold = (attributes.index(one) for one in wanted)
    rows = [row.split(",") for row in data]
    try:
        times = np.array([row[time] for row in rows], dtype=np.float64)
        values = np.array([np.nan if row[gold].strip() == "?" else row[gold] for row in rows], dtype=np.float32)
    except (ValueError, IndexError) as error:
        raise DatasetError(f"{path} has a row that is not 'name,time,value': {error}.", cure="Correct it.") from error
    return times, values, {row[name].strip().strip("'\"") for row in rows}


def read_gold_csv(path: Path) -> np.ndarray:
    """Both dimensions of the gold standard out of a headerless CSV.

    Args:
        path: rows ``arousal;valence``.

    Returns:
        float32 [T, 2] in the order valence, arousal.

    Raises:
        DatasetError: the file cannot be read or does not hold two numbers a row.
    """
    rows = [line.split(";") for line in _lines(path) if line]
    try:
        values = np.array(rows, dtype=np.float32)
    except ValueError as error:
        raise DatasetError(
            f"{path} has a row that is not 'arousal;valence': {error}.", cure="Correct it; the file has no header."
        ) from error
    if values.ndim != 2 or values.shape[1] != 2:
        columns = values.shape[1] if values.ndim == 2 else 0
        raise DatasetError(
            f"{path} has {len(rows)} rows of {columns} columns, not arousal;valence.",
            cure="Restore it from the original archive.",
        )
    return values[:, ::-1].copy()


def read_frame_times(path: Path) -> np.ndarray:
    """When each frame of a video was taken.

    Args:
        path: separated by ``;``, one header line, the time in the second column.

    Returns:
        float64 [F] in s.

    Raises:
        DatasetError: the file cannot be read or has no such column of numbers.
    """
    rows = [line.split(";") for line in _lines(path)[1:] if line]
    try:
        times = np.array([row[1] for row in rows], dtype=np.float64)
    except (ValueError, IndexError) as error:
        raise DatasetError(
            f"{path} has a row without a time in its second column: {error}.",
            cure="Restore it; it is separated by ';'.",
        ) from error
    if not len(times):
        raise DatasetError(f"{path} has no rows.", cure="Restore it from the original archive.")
    return times


def read_raters(path: Path) -> pd.DataFrame:
    """The individual ratings of one person in one dimension.

    Args:
        path: separated by ``;``, with a header whose names may have trailing spaces.

    Returns:
        A column a rater (and the time), the names without spaces.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        table = pd.read_csv(path, sep=";")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", cure="Restore it from the original archive.") from error
    table.columns = [str(name).strip() for name in table.columns]
    return table.drop(columns=[name for name in table.columns if name == "" or name.startswith("Unnamed")])


def audio_files(root: Path) -> dict[str, Path]:
    """The sound of each person, by ``{train,dev,test}_k``; empty where there is none.

    Raises:
        DatasetError: a folder cannot be read.
    """
    scanner = _Scanner(Path(root).expanduser(), ("audio",), None)
    return scanner.named_files(scanner.folder(_AUDIO), ".wav")


def _lines(path: Path) -> list[str]:
    with reading(path):
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]


@dataclass
class _Scanner:
    root: Path
    modalities: tuple[str, ...]
    physio: str | None
    findings: list[Finding] = field(default_factory=list)
    found: dict[str, int | float | str] = field(default_factory=dict)

    def add(self, kind: str, where: str, what: str, harm: Any, cure: str = "", samples: Sequence[str] = ()) -> None:
        self.findings.append(Finding(kind, where, what, harm, cure, tuple(samples)))

    def count(self, key: str, amount: int = 1) -> None:
        self.found[key] = int(self.found.get(key, 0)) + amount

    def folder(self, name: str) -> Path | None:
        """``root/name``, or the folder of that name inside it."""
        folder = self.root / name
        while (folder / name).is_dir():
            folder = folder / name
        return folder if folder.is_dir() else None

    def named_files(self, folder: Path | None, ending: str) -> dict[str, Path]:
        """Files called {train,dev,test}_k by that name."""
        named: dict[str, Path] = {}
        for path in entries(folder) if folder is not None else ():
            if path.is_dir():
                continue
            if path.suffix.lower() == ending and _NAME.fullmatch(path.stem):
                named[path.stem] = path
            else:
                self.add(
                    "unknown file",
                    str(path),
                    f"{path} is not named {{train,dev,test}}_k{ending} and is not read.",
                    "note",
                )
        return named

    def scan(self) -> tuple[list[Recording], dict[str, np.ndarray]]:
        missing = [_GOLD, *(_FOLDERS[one][0] for one in self.modalities)]
        missing = [name for name in missing if self.folder(name) is None]
        if missing:
            raise wrong_root(self.root, "RECOLA", _EXPECTED, missing)
        files = {
            "audio": self.named_files(self.folder(_AUDIO), ".wav"),
            "video": self.named_files(self.folder(_VIDEO), ".mp4"),
            "frame_times": self.named_files(self.folder(_TIMES), ".csv"),
            "biosignals": self.named_files(self.physio_folder(), ".csv"),
        }
        for kind, known in files.items():
            self.found[f"{kind} files"] = len(known)
        gold = self.gold()
        self.count_raters()
        people = sorted({*gold, *(one for known in files.values() for one in known)}, key=_order)
        for key in ("gold rows", "rows beyond the last whole clip", "length mismatches"):
            self.found.setdefault(key, 0)
        recordings: list[Recording] = []
        tracks = {}
        for person in people:
            if self.is_usable(person, gold, files):
                tracks[person] = gold[person]
                recordings += self.clips(person, gold[person], files)
        return recordings, tracks

    def physio_folder(self) -> Path | None:
        folder = self.folder(_PHYSIO)
        if folder is None:
            return None
        filtered = folder / "filtered"
        if self.physio != "raw" and filtered.is_dir():
            self.found["physiology"] = "filtered"
            return filtered
        if self.physio == "filtered":
            raise wrong_root(self.root, "RECOLA", (f"{_PHYSIO}/filtered/*.csv",), ["filtered"])
        self.found["physiology"] = "raw"
        return folder

    def gold(self) -> dict[str, np.ndarray]:
        """float32 [T, 2] by person; the .arff files, or the headerless CSVs where there are none."""
        top = self.folder(_GOLD)
        assert top is not None
        dimensions = {name: self.named_files_of(top / name) for name in TARGETS}
        tables = {path.stem: path for path in self.gold_tables(top)}
        if not any(dimensions.values()) and not tables:
            raise DatasetError(
                f"{top} has neither {{arousal,valence}}/*.arff nor *.csv; it holds "
                f"{some(path.name for path in entries(top))}.",
                cure="Unpack the gold standard there.",
            )
        kinds = [kind for kind, there in ((".arff", any(dimensions.values())), (".csv", bool(tables))) if there]
        self.found["gold standard"] = f"{kinds[0]} files"
        if len(kinds) == 2:
            self.add(
                "gold standard twice",
                str(top),
                f"{top} has both .arff and .csv files; the .arff files are read and others used where one is missing.",
                "note",
            )
        gold: dict[str, np.ndarray] = {}
        for person in sorted({*tables, *dimensions["arousal"], *dimensions["valence"]}, key=_order):
            pair = [dimensions[name].get(person) for name in TARGETS]
            try:
                if pair[0] is not None and pair[1] is not None:
                    gold[person] = self.read_pair(person, pair[0], pair[1])
                elif person in tables:
                    gold[person] = read_gold_csv(tables[person])
                else:
                    lacking = TARGETS[pair.index(None)]
                    self.add(
                        "half a gold standard",
                        person,
                        f"{person} has no {top / lacking / person}.arff.",
                        "left out",
                        "Restore it.",
                        (person,),
                    )
            except DatasetError as error:
                self.add("unreadable gold standard", person, error.what, "left out", error.cure or "", (person,))
        return gold

    def named_files_of(self, folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            return {}
        arff = [path for path in entries(folder) if path.suffix.lower() == ".arff"]
        for path in arff:
            if not _NAME.fullmatch(path.stem):
                self.add(
                    "unknown file", str(path), f"{path} is not named {{train,dev}}_k.arff; it is not read.", "note"
                )
        return {path.stem: path for path in arff if _NAME.fullmatch(path.stem)}

    def gold_tables(self, top: Path) -> list[Path]:
        """The .csv files of the variant, beside or below the dimensions' folders."""
        found = [path for path in entries(top) if path.is_file()]
        found += [path for folder in entries(top) if folder.is_dir() for path in entries(folder)]
        return [path for path in found if path.suffix.lower() == ".csv" and _NAME.fullmatch(path.stem)]

    def read_pair(self, person: str, valence: Path, arousal: Path) -> np.ndarray:
        tracks = []
        for path in (valence, arousal):
            times, values, names = read_gold_arff(path)
            if names != {person}:
                self.add(
                    "contradictory name",
                    person,
                    f"{path} has rows of {some(sorted(names))}; the file's name counts.",
                    "kept",
                )
            wanted = np.arange(len(times)) / GOLD_RATE
            if not np.allclose(times, wanted, atol=0.011):
                first = int(np.flatnonzero(~np.isclose(times, wanted, atol=0.011))[0])
                self.add(
                    "unusual time stamps",
                    person,
                    f"{path} has time {times[first]:g} s in row {first + 1}, not {wanted[first]:g}; rows are taken to "
                    "be 40 ms apart.",
                    "kept",
                )
            tracks.append(values)
        lengths = [len(track) for track in tracks]
        if lengths[0] != lengths[1]:
            self.count("length mismatches")
            self.add(
                "length mismatch",
                person,
                f"{person} has {lengths[0]} rows of valence and {lengths[1]} of arousal; the first {min(lengths)} "
                "count.",
                "kept",
            )
        return np.stack([track[: min(lengths)] for track in tracks], axis=1)

    def count_raters(self) -> None:
        folder = self.folder(_RATERS)
        raters: set[str] = set()
        for name in TARGETS:
            if folder is None or not (folder / name).is_dir():
                continue
            for path in entries(folder / name):
                if path.suffix.lower() != ".csv":
                    continue
                header = path.open(encoding="utf-8-sig", errors="replace").readline().split(";")
                raters.update(one.strip() for one in header if one.strip() and one.strip().lower() != "time")
        self.found["raters"] = len(raters)

    def is_usable(self, person: str, gold: Mapping[str, np.ndarray], files: Mapping[str, Mapping[str, Path]]) -> bool:
        if person.startswith("test_"):
            said = "has labels, which were withheld when results were published" if person in gold else "has no labels"
            self.add(
                "test part",
                person,
                f"{person} is of the test part and {said}: results are reported on dev.",
                "left out",
                samples=(person,),
            )
            return False
        if person not in gold:
            if not any(person in finding.samples for finding in self.findings):
                self.add(
                    "no gold standard",
                    person,
                    f"{person} has recordings but no gold standard.",
                    "left out",
                    "Restore it.",
                    (person,),
                )
            return False
        for kind in self.modalities:
            path = files[kind].get(person)
            folder, ending = _FOLDERS[kind]
            what = unusable(path) if path is not None else f"{person} has no {folder}/{person}{ending}."
            if what:
                clips = [_clip_id(person, index) for index in range(len(gold[person]) // CLIP_LABELS)]
                self.add(f"no {kind}", person, what, "left out", "Restore it.", clips or (person,))
                return False
        return True

    def clips(self, person: str, track: np.ndarray, files: Mapping[str, Mapping[str, Path]]) -> list[Recording]:
        self.count("gold rows", len(track))
        if len(track) != GOLD_ROWS:
            self.add(
                "unusual number of rows",
                person,
                f"{person} has {len(track)} rows of gold standard, not {GOLD_ROWS} (five minutes at 25 Hz).",
                "kept",
            )
        whole = len(track) // CLIP_LABELS
        self.count("rows beyond the last whole clip", len(track) - whole * CLIP_LABELS)
        sources = {kind: files[kind][person] for kind in self.modalities}
        ends: dict[str, float] = {}
        if "biosignals" in self.modalities:
            try:
                ends["biosignals"] = self.signal_end(sources["biosignals"])
            except DatasetError as error:
                clips = [_clip_id(person, index) for index in range(whole)]
                self.add("unreadable biosignals", person, error.what, "left out", error.cure or "", clips)
                return []
        if "video" in self.modalities:
            self.add_frame_times(person, files["frame_times"].get(person), sources, ends)
        length = len(track) / GOLD_RATE
        # The last of 7,501 labels stands for the moment at which the recordings end, so one label more is no mismatch.
        for kind, end in ends.items():
            if abs(end - length) > 1.5 / GOLD_RATE:
                self.count("length mismatches")
                self.add(
                    "length mismatch",
                    person,
                    f"{person} has {length:.2f} s of gold standard and {end:.2f} s of {kind.replace('_', ' ')}; the "
                    "shorter counts.",
                    "kept",
                )
        usable = min([whole, *(int((end + 1e-6) * GOLD_RATE) // CLIP_LABELS for end in ends.values())])
        if usable < whole:
            shortest = min(ends, key=lambda kind: ends[kind])
            self.add(
                f"beyond the {shortest.replace('_', ' ')}",
                person,
                f"{whole - usable} clips of {person} lie beyond the end of its {shortest.replace('_', ' ')} at "
                f"{ends[shortest]:.2f} s.",
                "left out",
                "Restore it if it was cut short.",
                [_clip_id(person, index) for index in range(usable, whole)],
            )
        recordings = []
        for index in range(usable):
            target = np.ascontiguousarray(track[index * CLIP_LABELS : (index + 1) * CLIP_LABELS])
            if np.isnan(target).any(axis=1).all():
                name = _clip_id(person, index)
                self.add("no labels", name, f"{name} has no label at all.", "left out", samples=(name,))
                continue
            recordings.append(
                Recording(
                    sample_id=_clip_id(person, index),
                    subject_id=person,
                    sequence_id=person,
                    sources=dict(sources),
                    target=target,
                    start_s=index * CLIP_LABELS / GOLD_RATE,
                    end_s=(index + 1) * CLIP_LABELS / GOLD_RATE,
                    mask=_mask(target),
                    part=person.partition("_")[0],
                    extra={"first_row": index * CLIP_LABELS},
                )
            )
        return recordings

    def add_frame_times(self, person: str, path: Path | None, sources: dict[str, Path], ends: dict[str, float]) -> None:
        """Where the video's frame times lie and when it ends (s), one frame after its last; a finding without them."""
        instead = "the video's own time stamps count."
        if path is None:
            self.add("no frame times", person, f"{person} has no {_TIMES}/{person}.csv; {instead}", "kept")
            return
        try:
            times = read_frame_times(path)
        except DatasetError as error:
            self.add("no frame times", person, f"{error.what} So {instead}", "kept", error.cure or "")
            return
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / GOLD_RATE
        self.found["frame rate"] = round(1 / step, 2) if step > 0 else "unknown"
        sources["frame_times"] = path
        ends["frame_times"] = float(times[-1]) + step

    def signal_end(self, path: Path) -> float:
        """When the physiology ends (s), by its rows."""
        with reading(path):
            content = path.read_bytes().rstrip()
        header = content.partition(b"\n")[0].decode("utf-8", errors="replace")
        names = [name.strip() for name in header.split(";") if name.strip()]
        if not {"ECG", "EDA"} & set(names):
            raise DatasetError(
                f"{path} has no column 'ECG' or 'EDA', only {some(names)}.", cure="Restore it; it is separated by ';'."
            )
        self.found["physiological columns"] = ", ".join(names)
        return content.count(b"\n") / PHYSIO_RATE


def _clip_id(person: str, index: int) -> str:
    return f"{person}-{index:03d}"


def _order(person: str) -> tuple[str, int]:
    """train_2 before train_10."""
    part, _, number = person.partition("_")
    return part, int(number)
