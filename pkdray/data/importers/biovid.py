"""Scan the BioVid Heat Pain set: parts A and B, the continuous Part C, and the layout of pre-cut images.

What is read: names, sizes, samples.csv, the stimulus tables, and of each biosignal file its header, its number of rows
and its last time stamp; with ``deep=True`` every value of every biosignal.

Where no public reader confirms a fact, both readings are accepted and ``Scan.found`` says which was met:

* pre-cut class folders may be called ``BL1 ... PA4`` or ``0 ... 4``; a sample's name says its class in any case, since
  the label at the end of an annotation line is 0/1 or 0..4 as its author liked.
* pre-cut samples of exactly 75 images are the crop from 2.0 to 5.0 s, longer ones start at 0 s.
* Part C's time stamps may be seconds, milliseconds or microseconds, its labels numbers 0..4 or names. Where its clips
  lie after a stimulus is our own reading: a finding of every scan says so, and so do the dataset's notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    counted,
    entries,
    folders,
    gather,
    nothing_left,
    reading,
    unusable,
    wrong_root,
)
from pkdray.errors import DatasetError

LEVELS = ("BL1", "PA1", "PA2", "PA3", "PA4")
CLASSES = {"BL1-PA4": ("BL1", "PA4"), "five": LEVELS}
CROP_S = (2.0, 5.0)
"""The window 2.0 <= t < 5.0 s of a clip: 75 frames at 25 fps, 1,536 rows at 512 Hz."""
CLIP_S = 5.5
VIDEO_RATE = 25.0
"""Frames a second (Hz)."""
SIGNAL_RATE = 512.0
"""Rows a second of a biosignal file (Hz), whatever its time stamps say."""
SIGNAL_ROWS = 2816
CHANNELS = ("gsr", "ecg", "emg_trapezius", "emg_corrugator", "emg_zygomaticus")
SIGNAL_COLUMNS = ("time", *CHANNELS)
SAMPLES_COLUMNS = ("subject_id", "subject_name", "class_id", "class_name", "sample_id", "sample_name")
STIMULUS_DELAY_S = 1.0
"""Part C: seconds from the start of a stimulus to the start of its 5.5 s clip."""
UNCONFIRMED_C = (
    "The timing of Part C is unsure, since no public reader confirms it: a clip is taken to start "
    f"{STIMULUS_DELAY_S:g} s after its stimulus (a baseline's is the last 5.5 s before the next), and the video to "
    "start with the biosignals."
)

_CROP_ROWS = (round(CROP_S[0] * SIGNAL_RATE), round(CROP_S[1] * SIGNAL_RATE))
_CROP_FRAMES = round((CROP_S[1] - CROP_S[0]) * VIDEO_RATE)
_SUBJECT = re.compile(r"\d{6}_[mw]_\d{1,3}")
_SAMPLE = re.compile(r"(?P<subject>.+)-(?P<level>BL1|PA[1-4])-(?P<number>\d+)")
_IMAGE = re.compile(r"img_(\d+)\.jpe?g", re.IGNORECASE)
_SIGNAL_FOLDERS = {"filtered": "biosignals_filtered", "raw": "biosignals_raw"}
_EXPECTED = (
    "video/<subject>/<sample>.mp4",
    "biosignals_filtered/ or biosignals_raw/",
    "starting_point/samples.csv",
)
_EXPECTED_C = ("video/<subject>.mp4", "biosignals_raw/<subject>.csv", "stimulus/<subject>.csv")
_TIME_UNITS = (("seconds", 1.0, 1e4), ("milliseconds", 1e3, 1e7), ("microseconds", 1e6, float("inf")))
"""What a stimulus table's times may be: the unit, how many are a second, and the latest time that is taken for it."""
_DEAD_IN_A = {"emg_corrugator", "emg_zygomaticus"}

Modality = Literal["video", "biosignals"]


def scan(
    root: Path,
    *,
    part: Literal["A", "B", "C"] = "A",
    classes: Literal["BL1-PA4", "five"] = "BL1-PA4",
    modalities: Sequence[Modality] = ("video", "biosignals"),
    signals: Literal["filtered", "raw"] | None = None,
    deep: bool = False,
) -> Scan:
    """Find BioVid's samples; the pre-cut layout is recognised by itself.

    Every recording has ``sources`` of the ``modalities``, a class as target and the crop window as start_s and end_s:
    2.0 and 5.0 s into a clip of parts A and B, absolute times in Part C, and in the pre-cut layout where its ``frames``
    start and end in the clip. ``extra["signal_rows"]`` is the crop as first and last row (exclusive) of the biosignal
    file at 512 Hz; None in Part C, where start_s and end_s say it. ``extra["level"]`` is BL1 or PA1 to PA4.

    Args:
        root: the part's folder.
        part: which part it is; A and B look alike, but A's corrugator and zygomaticus are dead.
        classes: two classes (samples of PA1 to PA3 are not asked for) or five.
        modalities: what a sample must have; one that lacks any of them is left out.
        signals: filtered or raw biosignals; None takes the filtered ones where there are any (Part C: raw).
        deep: read every biosignal value and report each dead (all zero) channel of each sample. Without, the first
            file of each subject is read as a spot check, since a dead channel is dead throughout a recording.

    Raises:
        DatasetError: the root is not BioVid's or not this part's, the tables are unreadable, or no sample is left.
    """
    root = check_root(root)
    for name, value, known in (("part", part, ("A", "B", "C")), ("classes", classes, tuple(CLASSES))):
        if value not in known:
            raise DatasetError(f"{name} is {value!r}.", cure=f"Choose from {', '.join(known)}.")
    strangers = [one for one in modalities if one not in ("video", "biosignals")]
    if strangers or not modalities:
        raise DatasetError(f"modalities are {list(modalities)}.", cure="Choose video, biosignals or both of them.")
    scanner = _Scanner(root, part, CLASSES[classes], tuple(modalities), signals, deep)
    if part == "C":
        recordings = scanner.continuous()
    elif not (root / "video").is_dir() and _precut_folders(root):
        recordings = scanner.precut()
    else:
        recordings = scanner.clips()
    if not recordings:
        what = f"{root} has no sample of {', '.join(CLASSES[classes])} with {' and '.join(modalities)}."
        raise nothing_left(what, scanner.findings, "Choose other classes.")
    scanner.note_subjects(recordings)
    return Scan(
        name="biovid",
        task="classification",
        targets=("target",),
        classes=CLASSES[classes],
        recordings=tuple(sorted(recordings, key=lambda one: one.sample_id)),
        findings=tuple(scanner.findings),
        found=scanner.found,
    )


@dataclass
class _Scanner:
    root: Path
    part: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    signals: str | None
    deep: bool
    findings: list[Finding] = field(default_factory=list)
    found: dict[str, int | float | str] = field(default_factory=dict)

    def add(self, kind: str, where: str, what: str, harm: Any, cure: str = "", samples: Sequence[str] = ()) -> None:
        self.findings.append(Finding(kind, where, what, harm, cure, tuple(samples)))

    def leave_out(self, kind: str, sample: str, what: str, cure: str = "") -> None:
        self.add(kind, sample, what, "left out", cure, (sample,))

    def nested(self, name: str) -> Path | None:
        """``root/name``, or the folder of that name inside it; None if there is none."""
        folder = self.root / name
        if not folder.is_dir():
            return None
        while (folder / name).is_dir():
            self.add(
                "double-nested folder",
                name,
                f"{folder / name} lies inside a folder of its own name; it is read.",
                "note",
            )
            folder = folder / name
        return folder

    def signal_folder(self) -> Path | None:
        order = [self.signals] if self.signals else ["raw", "filtered"] if self.part == "C" else ["filtered", "raw"]
        for kind in order:
            folder = self.nested(_SIGNAL_FOLDERS[kind])
            if folder is not None:
                self.found["biosignals"] = kind
                return folder
        return None

    def media_folders(self, expected: tuple[str, ...]) -> tuple[Path | None, Path | None]:
        """The folders of videos and of biosignals; None where not asked for."""
        video = self.nested("video") if "video" in self.modalities else None
        signals = self.signal_folder() if "biosignals" in self.modalities else None
        missing = []
        if "video" in self.modalities and video is None:
            missing.append("video")
        if "biosignals" in self.modalities and signals is None:
            missing.extend([_SIGNAL_FOLDERS[self.signals]] if self.signals else _SIGNAL_FOLDERS.values())
        if missing:
            raise wrong_root(self.root, f"BioVid (part {self.part})", expected, missing)
        return video, signals

    def clips(self) -> list[Recording]:
        """Parts A and B: one video and one biosignal file a sample."""
        video, signals = self.media_folders(_EXPECTED)
        if video is not None and not folders(video) and any(path.suffix == ".mp4" for path in entries(video)):
            raise DatasetError(
                f"{video} holds one video a subject, as Part C does, and no folder a subject.",
                cure="Say that it is part C.",
            )
        self.found["layout"] = f"part {self.part}"
        files: dict[str, dict[str, Path]] = {"video": {}, "biosignals": {}}
        if video is not None:
            files["video"] = self.sample_files(video, ".mp4")
        if signals is not None:
            files["biosignals"] = self.sample_files(signals, "_bio.csv")
        for kind in self.modalities:
            self.found[f"{kind} files"] = len(files[kind])
        listed = self.listed_samples()
        names = sorted({*files["video"], *files["biosignals"], *(listed or {})})
        wanted = [one for one in names if self.is_wanted(one, listed)]
        usable = [one for one in wanted if self.has_files(one, files, listed)]
        if listed is not None:
            beyond = [one for one in usable if one not in listed]
            for one in beyond:
                self.add(
                    "not in samples.csv",
                    one,
                    f"{one} has files but no row in samples.csv; its name says its subject and class.",
                    "kept",
                    samples=(one,),
                )
        checked = self.check_signals({one: files["biosignals"][one] for one in usable if one in files["biosignals"]})
        rows = _CROP_ROWS
        return [
            self.recording(
                one,
                {kind: files[kind][one] for kind in self.modalities},
                start_s=CROP_S[0],
                end_s=CROP_S[1],
                extra={"signal_rows": rows},
            )
            for one in usable
            if one not in files["biosignals"] or one in checked
        ]

    def recording(
        self,
        sample: str,
        sources: Mapping[str, Path],
        *,
        start_s: float,
        end_s: float,
        extra: Mapping[str, Any],
        frames: np.ndarray | None = None,
        sequence: str | None = None,
    ) -> Recording:
        match = _SAMPLE.fullmatch(sample)
        assert match, "only samples whose names were parsed come this far"
        return Recording(
            sample_id=sample,
            subject_id=match["subject"],
            sequence_id=sequence or sample,
            sources=dict(sources),
            target=self.classes.index(match["level"]),
            start_s=start_s,
            end_s=end_s,
            frames=frames,
            extra={"level": match["level"], **extra},
        )

    def sample_files(self, folder: Path, ending: str) -> dict[str, Path]:
        """``<subject>/<sample><ending>`` by sample."""
        pairs = []
        for subject in folders(folder):
            for path in entries(subject):
                if not path.name.endswith(ending):
                    self.add("unknown file", str(path), f"{path} is no {ending} file and is not read.", "note")
                    continue
                sample = path.name.removesuffix(ending)
                match = _SAMPLE.fullmatch(sample)
                if match and match["subject"] != subject.name:
                    self.add(
                        "wrong subject folder",
                        str(path),
                        f"{path} lies in the folder of {subject.name}; the name's subject, {match['subject']}, counts.",
                        "kept",
                        "Move it to its subject's folder.",
                        (sample,),
                    )
                pairs.append((sample, path))
        return self.first_of(pairs)

    def first_of(self, pairs: Sequence[tuple[str, Path]]) -> dict[str, Path]:
        """The first path of each sample; a finding for each other."""
        first, again = gather(pairs)
        for sample, path in again:
            what = f"{path} is a second one of {sample}; {first[sample]} is read."
            self.add("twice", sample, what, "note", "Remove one of them.")
        return first

    def listed_samples(self) -> dict[str, str] | None:
        """The class name of each sample in samples.csv; None without the table."""
        path = self.root / "starting_point" / "samples.csv"
        if not path.is_file():
            self.add(
                "no samples.csv",
                "starting_point/samples.csv",
                f"There is no {path}; files are taken by their names alone.",
                "note",
                "Restore it to be told of samples that are missing altogether.",
            )
            return None
        table = _read_tabs(path, SAMPLES_COLUMNS)
        self.found["rows of samples.csv"] = len(table)
        listed: dict[str, str] = {}
        for row in table.to_dict("records"):
            sample = row["sample_name"]
            if sample in listed:
                self.add(
                    "row twice",
                    sample,
                    f"{sample} has more than one row in samples.csv; the first counts.",
                    "kept",
                    "Remove the others.",
                )
                continue
            listed[sample] = row["class_name"]
            number = row["class_id"]
            said = LEVELS[int(number)] if number.isdecimal() and int(number) < len(LEVELS) else None
            match = _SAMPLE.fullmatch(sample)
            if match and {said, row["class_name"], match["level"]} != {match["level"]}:
                # "" is no class: the sample is left out where it is judged.
                listed[sample] = ""
                self.leave_out(
                    "contradictory class",
                    sample,
                    f"samples.csv gives {sample} class_id {number} ({said or 'unknown'}) and class_name "
                    f"{row['class_name']}, its name says {match['level']}.",
                    "Correct the row.",
                )
            elif match and row["subject_name"] != match["subject"]:
                self.add(
                    "contradictory subject",
                    sample,
                    f"samples.csv gives {sample} the subject {row['subject_name']}; the name's subject counts.",
                    "kept",
                    "Correct the row.",
                    (sample,),
                )
        return listed

    def is_wanted(self, sample: str, listed: Mapping[str, str] | None) -> bool:
        """Whether a sample is of the classes asked for; one without a class is left out."""
        match = _SAMPLE.fullmatch(sample)
        if match is None:
            self.leave_out(
                "no sample's name",
                sample,
                f"'{sample}' is not named <subject>-<class>-<number>, such as 071309_w_21-PA4-006: its class is "
                "unknown.",
                "Rename it, or remove it.",
            )
            return False
        if listed is not None and listed.get(sample) == "":
            return False
        if match["level"] in self.classes:
            return True
        key = "samples of other classes, not asked for"
        self.found[key] = int(self.found.get(key, 0)) + 1
        return False

    def has_files(
        self, sample: str, files: Mapping[str, Mapping[str, Path]], listed: Mapping[str, str] | None = None
    ) -> bool:
        lacking = [kind for kind in self.modalities if sample not in files[kind]]
        if lacking and len(lacking) == len(self.modalities) and listed is not None:
            self.leave_out(
                "row without files",
                sample,
                f"samples.csv lists {sample}, which has no {' and no '.join(lacking)} file.",
                "Restore its files.",
            )
            return False
        if lacking:
            self.leave_out(f"no {lacking[0]}", sample, f"{sample} has no {lacking[0]} file.", "Restore it.")
            return False
        for kind in self.modalities:
            path = files[kind][sample]
            why = None if path.is_dir() else unusable(path)
            if why:
                self.leave_out("unusable file", sample, why, "Restore it from the original archive.")
                return False
        return True

    def check_signals(self, paths: Mapping[str, Path], cropped_too: bool = False) -> set[str]:
        """The samples whose biosignal files have the columns and the rows of the crop window."""
        good = set()
        spot: set[str] = set()
        dead: dict[str, list[str]] = {}
        for sample, path in paths.items():
            head = _signal_head(path)
            missing = [name for name in SIGNAL_COLUMNS if name not in head.columns]
            if missing:
                self.leave_out(
                    "wrong columns",
                    sample,
                    f"{path} has no column {some(missing)}, only {some(head.columns)}.",
                    "Restore it; the columns are separated by tabs.",
                )
                continue
            whole = abs(head.rows - SIGNAL_ROWS) <= 1
            cropped = cropped_too and head.rows == _CROP_ROWS[1] - _CROP_ROWS[0]
            if head.rows < _CROP_ROWS[1] and not cropped:
                self.leave_out(
                    "too few rows",
                    sample,
                    f"{path} has {head.rows} rows; the crop from 2.0 to 5.0 s ends at row {_CROP_ROWS[1]} at 512 Hz.",
                    "Restore it from the original archive.",
                )
                continue
            good.add(sample)
            if not whole and not cropped:
                self.add(
                    "unusual number of rows",
                    sample,
                    f"{path} has {head.rows} rows, not {SIGNAL_ROWS} +-1 (5.5 s at 512 Hz).",
                    "kept",
                    samples=(sample,),
                )
            if head.last_time is None or not 5e6 <= head.last_time <= 6e6:
                self.add(
                    "unusual time stamps",
                    sample,
                    f"{path} ends at time {head.last_time}, not at about 5.5e6 microseconds; rows are taken to be "
                    "1/512 s apart.",
                    "kept",
                    samples=(sample,),
                )
            subject = sample.partition("-")[0]
            if self.deep or subject not in spot:
                spot.add(subject)
                channels = self.dead_channels(sample, path)
                if channels is None:
                    good.discard(sample)
                    continue
                for channel in channels:
                    dead.setdefault(channel, []).append(sample)
        self.note_dead(dead, len(paths) if self.deep else len(spot))
        return good

    def dead_channels(self, sample: str, path: Path) -> list[str] | None:
        """Channels that are zero throughout; None where the values cannot be read, which is noted."""
        try:
            table = pd.read_csv(path, sep="\t", dtype=np.float32)
        except (ValueError, pd.errors.ParserError) as error:
            reason = str(error).splitlines()[0]
            self.leave_out(
                "unreadable values", sample, f"{path} has values that are no numbers: {reason}.", "Restore it."
            )
            return None
        table.columns = [str(name).strip() for name in table.columns]
        return [name for name in CHANNELS if not table[name].to_numpy().any()]

    def note_dead(self, dead: Mapping[str, list[str]], looked_at: int) -> None:
        if not looked_at:
            return
        how = "" if self.deep else " (the first of each subject)"
        self.found["biosignal files read for dead channels"] = f"{looked_at}{how}"
        self.found["dead channels"] = counted(name for name, samples in dead.items() for _ in samples) or "none"
        for channel, samples in dead.items():
            expected = self.part == "A" and channel in _DEAD_IN_A
            self.add(
                "dead channel",
                channel,
                f"Channel {channel} is zero throughout {len(samples)} of {looked_at} files that were read: "
                f"{some(samples)}.",
                "note" if expected else "kept",
                "This is so in all of Part A: take Part B for work on it." if expected else "Do without these samples.",
                samples,
            )

    def note_subjects(self, recordings: Sequence[Recording]) -> None:
        strange = sorted({one.subject_id for one in recordings if not _SUBJECT.fullmatch(one.subject_id)})
        for subject in strange:
            self.add(
                "unknown subject id",
                subject,
                f"Subject '{subject}' is not named MMDDYY_m_AGE or MMDDYY_w_AGE; protocols that list subjects cannot "
                "know it.",
                "kept",
                samples=[one.sample_id for one in recordings if one.subject_id == subject],
            )

    def continuous(self) -> list[Recording]:
        """Part C: clips out of one long video a subject, where the stimulus table says.

        A stimulus (PA1 to PA4) is a run of one label; its 5.5 s clip starts ``STIMULUS_DELAY_S`` after the run does. A
        baseline is a run of BL1 that lasts a clip at least; its clip is the run's last 5.5 s, the farthest from the
        stimulus before. The crop window is the same as in parts A and B.
        """
        stimuli = self.nested("stimulus")
        if stimuli is None:
            raise wrong_root(self.root, "BioVid (part C)", _EXPECTED_C, ["stimulus"])
        self.add("unconfirmed timing", "part C", UNCONFIRMED_C, "note", "Check some clips by eye before relying on it.")
        video, signals = self.media_folders(_EXPECTED_C)
        self.found["layout"] = "part C"
        of_kind = {"video": (video, ".mp4"), "biosignals": (signals, ".csv")}
        files: dict[str, dict[str, Path]] = {}
        for kind in self.modalities:
            folder, ending = of_kind[kind]
            assert folder is not None
            files[kind] = {
                path.name.removesuffix(ending): path for path in entries(folder) if path.name.endswith(ending)
            }
        tables = {path.stem: path for path in entries(stimuli) if path.suffix == ".csv"}
        recordings = []
        for subject in sorted({*tables, *(one for known in files.values() for one in known)}):
            recordings += self.continuous_subject(subject, tables.get(subject), files)
        return recordings

    def continuous_subject(
        self, subject: str, stimulus: Path | None, files: Mapping[str, Mapping[str, Path]]
    ) -> list[Recording]:
        if stimulus is None:
            self.add(
                "no stimulus",
                subject,
                f"Subject {subject} has recordings but no stimulus/{subject}.csv: no sample of them is labelled.",
                "left out",
                "Restore it.",
                (subject,),
            )
            return []
        clips = self.stimulus_clips(subject, stimulus)
        names = [name for name, _, _ in clips]
        for kind in self.modalities:
            file = files[kind].get(subject)
            why = unusable(file) if file is not None else f"Subject {subject} has no {kind} file."
            if why:
                self.add(f"no {kind}", subject, why, "left out", "Restore it.", names or (subject,))
                return []
        end = np.inf
        if "biosignals" in self.modalities:
            path = files["biosignals"][subject]
            head = _signal_head(path)
            missing = [name for name in SIGNAL_COLUMNS if name not in head.columns]
            if missing:
                self.add(
                    "wrong columns",
                    subject,
                    f"{path} has no column {some(missing)}, only {some(head.columns)}.",
                    "left out",
                    "Restore it; the columns are separated by tabs.",
                    names,
                )
                return []
            end = head.rows / SIGNAL_RATE
            if self.deep:
                self.note_dead_of_subject(subject, path, names)
        recordings = []
        for name, start, stop in clips:
            if stop > end:
                self.leave_out(
                    "beyond the biosignals",
                    name,
                    f"{name} ends at {stop:.2f} s, the biosignals of {subject} at {end:.2f} s.",
                    "Restore them if they were cut short.",
                )
                continue
            recordings.append(
                self.recording(
                    name,
                    {kind: files[kind][subject] for kind in self.modalities} | {"stimulus": stimulus},
                    start_s=start,
                    end_s=stop,
                    extra={"signal_rows": None},
                    sequence=subject,
                )
            )
        return recordings

    def note_dead_of_subject(self, subject: str, path: Path, names: Sequence[str]) -> None:
        """Part C: the channels that are zero throughout a session."""
        key = "biosignal files read for dead channels"
        self.found[key] = int(self.found.get(key, 0)) + 1
        for channel in self.dead_channels(subject, path) or ():
            self.add(
                "dead channel",
                subject,
                f"Channel {channel} is zero throughout {path}.",
                "kept",
                "Do without these samples.",
                names,
            )

    def stimulus_clips(self, subject: str, path: Path) -> list[tuple[str, float, float]]:
        """(sample, start and end of its crop in s) of the classes asked for.

        A faulty table gives none, with a finding. Samples are numbered over all classes, so that a sample's id does not
        depend on what is asked for.
        """
        try:
            times, labels = _read_stimulus(path)
        except DatasetError as error:
            self.add("unreadable stimulus", subject, error.what, "left out", error.cure or "", (subject,))
            return []
        # A session lasts from a quarter of a minute to hours: at most 1e4 s, and more than 1e7 microseconds.
        unit, scale = next(one for one in _TIME_UNITS if times.max() <= one[2])[:2]
        self.found["stimulus times"] = unit
        times = times / scale
        starts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist()]
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        stops = [*(float(times[start]) for start in starts[1:]), float(times[-1]) + step]
        clips = []
        number = 0
        for start, finish in zip(starts, stops, strict=True):
            level, begin = int(labels[start]), float(times[start])
            number += 1
            if not 0 <= level < len(LEVELS):
                self.leave_out(
                    "unknown stimulus",
                    f"{subject}-{level}-{number:03d}",
                    f"{path} has the label {level} from {begin:.2f} to {finish:.2f} s, outside 0 (BL1) to 4 (PA4).",
                )
                continue
            sample = f"{subject}-{LEVELS[level]}-{number:03d}"
            if not self.is_wanted(sample, None):
                continue
            if level == 0 and finish - begin < CLIP_S:
                self.leave_out(
                    "short baseline",
                    sample,
                    f"The baseline of {subject} from {begin:.2f} to {finish:.2f} s is shorter than a clip, {CLIP_S} s.",
                )
                continue
            onset = begin + STIMULUS_DELAY_S if level else finish - CLIP_S
            clips.append((sample, onset + CROP_S[0], onset + CROP_S[1]))
        return clips

    def precut(self) -> list[Recording]:
        """Folders of images, already cut."""
        self.found["layout"] = "pre-cut images"
        images = [(path.name, path) for folder in _precut_folders(self.root) for path in folders(folder)]
        image_folders = self.first_of(images)
        self.found["video files"] = len(image_folders)
        signals = self.nested("physio")
        if "biosignals" in self.modalities and signals is None:
            raise wrong_root(
                self.root,
                "BioVid (pre-cut)",
                ("<class>/<sample>/img_00001.jpg", "physio/<class>/<sample>_bio.csv"),
                ["physio"],
            )
        paths = [path for folder in folders(signals) for path in entries(folder)] if signals is not None else []
        ending = "_bio.csv"
        bio = self.first_of([(path.name.removesuffix(ending), path) for path in paths if path.name.endswith(ending)])
        ranges = self.annotated_ranges()
        files: dict[str, dict[str, Path]] = {"video": image_folders, "biosignals": bio}
        names = sorted({*image_folders, *bio, *(ranges or {})})
        usable = []
        for one in names:
            if not self.is_wanted(one, None) or not self.has_files(one, files):
                continue
            if ranges is not None and one not in ranges:
                self.leave_out(
                    "not annotated",
                    one,
                    f"{one} has files but no line in an annotation file.",
                    "Add a line 'class/sample start end label'.",
                )
                continue
            usable.append(one)
        good = set(usable)
        if "biosignals" in self.modalities:
            good = self.check_signals({one: bio[one] for one in usable}, cropped_too=True)
        recordings = []
        for one in usable:
            if one in good:
                recording = self.precut_sample(one, files, ranges)
                recordings += [recording] if recording else []
        return recordings

    def annotated_ranges(self) -> dict[str, tuple[int, int]] | None:
        """First and last image of each sample, from every annotation file at the root; None without one."""
        ranges: dict[str, tuple[int, int]] = {}
        read = []
        for path in entries(self.root):
            if path.suffix != ".txt":
                continue
            lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            parsed = [_annotation(line) for line in lines]
            if not any(parsed):
                continue
            read.append(path.name)
            for number, (words, found) in enumerate(zip(lines, parsed, strict=True), start=1):
                if not words:
                    continue
                if found is None:
                    self.add(
                        "unreadable line",
                        f"{path.name}:{number}",
                        f"Line {number} of {path} is not 'class/sample start end label'.",
                        "left out",
                        "Correct it.",
                        (f"{path.name}:{number}",),
                    )
                    continue
                sample, start, end, folder, label = found
                match = _SAMPLE.fullmatch(sample)
                if match and folder in LEVELS and folder != match["level"]:
                    self.add(
                        "contradictory class",
                        sample,
                        f"{path.name} has {sample} in folder {folder}; the name's class, {match['level']}, counts.",
                        "kept",
                        "Correct the line.",
                        (sample,),
                    )
                # PA4 is 1 where its author numbered two classes, and 4 where five.
                if match and label not in ({0} if match["level"] == "BL1" else {1, LEVELS.index(match["level"])}):
                    self.add(
                        "contradictory class",
                        sample,
                        f"{path.name} gives {sample} the label {label}; the name's class counts.",
                        "kept",
                        "Correct the line.",
                        (sample,),
                    )
                if ranges.setdefault(sample, (start, end)) != (start, end):
                    self.add(
                        "two ranges",
                        sample,
                        f"{path.name} has the images {start} to {end} of {sample}, another line "
                        f"{ranges[sample][0]} to {ranges[sample][1]}, which are taken.",
                        "kept",
                        samples=(sample,),
                    )
        if not read:
            self.add(
                "no annotation file",
                str(self.root),
                f"{self.root} has no .txt file with lines 'class/sample start end label'; all images are taken.",
                "note",
            )
            return None
        self.found["annotation files"] = ", ".join(read)
        return ranges

    def precut_sample(
        self, sample: str, files: Mapping[str, Mapping[str, Path]], ranges: Mapping[str, tuple[int, int]] | None
    ) -> Recording | None:
        sources: dict[str, Path] = {}
        extra: dict[str, Any] = {"signal_rows": None}
        frames, start_s, end_s = None, CROP_S[0], CROP_S[1]
        if "biosignals" in self.modalities:
            path = files["biosignals"][sample]
            sources["biosignals"] = path
            whole = _signal_head(path).rows >= _CROP_ROWS[1]
            extra["signal_rows"] = _CROP_ROWS if whole else (0, _CROP_ROWS[1] - _CROP_ROWS[0])
        if "video" in self.modalities:
            folder = files["video"][sample]
            sources["frames"] = folder
            numbers = {int(match[1]) for path in entries(folder) if (match := _IMAGE.fullmatch(path.name))}
            first, last = ranges[sample] if ranges is not None else (min(numbers, default=1), max(numbers, default=0))
            present = [number for number in range(first, last + 1) if number in numbers]
            if not present:
                self.leave_out(
                    "no images", sample, f"{folder} has none of the images {first} to {last}.", "Restore them."
                )
                return None
            if len(present) < last - first + 1:
                absent = [number for number in range(first, last + 1) if number not in numbers]
                self.add(
                    "missing images",
                    sample,
                    f"{folder} lacks {len(absent)} of the images {first} to {last}: {some(absent)}.",
                    "kept",
                    samples=(sample,),
                )
            frames = np.array(present, dtype=np.int64)
            offset = CROP_S[0] if max(numbers) <= _CROP_FRAMES else 0.0
            # Those that are there: whoever cuts them knows a frame's time by the number of the first.
            start_s, end_s = offset + (present[0] - 1) / VIDEO_RATE, offset + present[-1] / VIDEO_RATE
            key = "images start at"
            self.found[key] = f"{offset:g} s" if self.found.get(key, f"{offset:g} s") == f"{offset:g} s" else "0 or 2 s"
        return self.recording(sample, sources, start_s=start_s, end_s=end_s, extra=extra, frames=frames)


@dataclass(frozen=True)
class _Head:
    columns: tuple[str, ...]
    rows: int
    last_time: float | None


def _signal_head(path: Path) -> _Head:
    """Header, number of rows and last time stamp of a biosignal file, from its bytes: a fraction of parsing it."""
    with reading(path):
        content = path.read_bytes()
    header, _, body = content.partition(b"\n")
    columns = tuple(name.strip() for name in header.decode("utf-8", errors="replace").split("\t"))
    body = body.rstrip()
    if not body:
        return _Head(columns, 0, None)
    last = body.rpartition(b"\n")[2].split(b"\t")[columns.index("time") if "time" in columns else 0]
    try:
        time = float(last)
    except ValueError:
        time = None
    return _Head(columns, body.count(b"\n") + 1, time)


def _read_tabs(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table separated by tabs, all cells stripped text.

    Raises:
        DatasetError: the file cannot be read or lacks columns.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", cure="Restore it from the original archive.") from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in columns if name not in table]
    if missing:
        raise DatasetError(
            f"{path} has no column {some(missing)}, only {some(table.columns)}.",
            cure=f"Restore it; it has the columns {', '.join(columns)}, separated by tabs.",
        )
    return table.apply(lambda cells: cells.str.strip())


def _read_stimulus(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times as they stand and labels as levels 0..4 (others as they stand).

    Raises:
        DatasetError: the file cannot be read, lacks columns or rows, or holds no numbers.
    """
    table = _read_tabs(path, ("time", "label"))
    labels = table["label"].replace({name: str(level) for level, name in enumerate(LEVELS)})
    try:
        times = table["time"].to_numpy(dtype=np.float64)
        levels = labels.to_numpy(dtype=np.float64)
    except ValueError as error:
        raise DatasetError(f"{path} has a cell that is no number: {error}.", cure="Correct it.") from error
    if not len(times):
        raise DatasetError(f"{path} has no rows.", cure="Restore it from the original archive.")
    return times, levels.astype(np.int64)


def _precut_folders(root: Path) -> list[Path]:
    known = {*LEVELS, *(str(level) for level in range(len(LEVELS)))}
    return [path for path in folders(root) if path.name in known]


def _annotation(words: Sequence[str]) -> tuple[str, int, int, str, int] | None:
    """Sample, first and last image, folder and label of a line ``class/sample start end label``."""
    if len(words) != 4 or "/" not in words[0] or not all(word.isdecimal() for word in words[1:]):
        return None
    folder, _, sample = words[0].rstrip("/").rpartition("/")
    return sample, int(words[1]), int(words[2]), folder, int(words[3])
