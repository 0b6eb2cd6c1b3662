"""Scan the valence-arousal track of Aff-Wild2: per-frame annotations, cropped faces, and the videos for their sound.

Clips. A clip is 32 frames; the 8 that are used are every fourth, counted back from the last, so that the frame whose
label the clip has is among them (frames 4, 8 ... 32). Clips follow one another; where the last would be cut short, it
is moved back to end at the last frame, so that it overlaps the one before but has 32 true frames and repeats no label.
A clip that starts before the video (of fewer than 32 frames, or with a ``stride`` below 32) has padding at its front,
as frame number 0.

Windows. 16 clips in a row are the window of 512 frames of the published work: a sample with a label a clip. A video's
last window is moved back like its last clip, and a video of too few clips repeats its first one in front. A clip that
comes again has no label there (NaN, mask False), so that no label counts twice.

Invalid labels (-5 in either dimension, outside [-1, 1], or unreadable) are never a label of anything: a clip that has
one is left out, a window masks it. The usual evaluation counts them as perfect predictions.

Who is who. The set does not say who is seen: a video stands for its people, and the two persons of one video (``_left``
and ``_right``) have the same subject_id, so that they stay in the same split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pkdray.data.faults import some
from pkdray.data.importers.recordings import (
    Finding,
    Recording,
    Scan,
    check_root,
    entries,
    find_named,
    folders,
    gather,
    nothing_left,
    reading,
    unusable,
    wrong_root,
)
from pkdray.errors import DatasetError

TARGETS = ("valence", "arousal")
INVALID = -5.0
CLIP_FRAMES = 32
CLIP_STEP = 4
WINDOW_CLIPS = 16
"""Clips of a window in the published work."""
FACE_SIZE = (112, 112)
"""Height and width of a cropped face (pixels)."""

_PARTS = {"Train_Set": "train", "Validation_Set": "dev"}
_TRACKS = ("VA_Estimation_Challenge", "VA_Set")
_FACES = ("cropped_aligned", "cropped_aligned_new_50_vids")
_MEDIA = ("batch1", "batch2", "new_vids")
_VIDEOS = (".mp4", ".avi")
_SIDE = re.compile(r"_(left|right)$")
_IMAGE = re.compile(r"(\d+)\.jpg", re.IGNORECASE)
_EXPECTED = (
    "VA_Estimation_Challenge/{Train_Set,Validation_Set}/ (or VA_Set/, perhaps below '6th ABAW Annotations/')",
    "cropped_aligned/ and cropped_aligned_new_50_vids/",
    "batch1/, batch2/ and new_vids/",
)
_DEPTH = 3

Modality = Literal["faces", "audio"]


def scan(
    root: Path,
    *,
    window: int = 1,
    modalities: Sequence[Modality] = ("faces", "audio"),
    stride: int = CLIP_FRAMES,
) -> Scan:
    """Find Aff-Wild2's clips or windows of clips.

    Every recording has ``sources`` faces (a folder of ``00001.jpg`` ...; a number that is absent has no face) and, with
    audio, ``video`` and ``audio`` (the same file); ``frames`` are int64 numbers from 1, [8] a clip or [N, 8] a window,
    0 where padded. ``extra["last_frames"]`` has the number of each clip's last frame, int64 [1] or [N]: its sound is
    that of the 32 frames up to it. ``extra["faces"]``, bool like ``frames``, says which images exist.

    Args:
        root: the folder that annotations, faces and videos lie in, at most three levels down.
        window: N, clips a sample. 1 gives a sample a clip, with target [2]; more a sample a window, with target [N, 2]
            and, where a label is invalid or another window's, mask [N].
        modalities: what a sample must have; one that lacks any of them is left out.
        stride: frames from one clip to the next; 32 with windows. 1 gives every frame a clip that ends with it, as the
            challenge's evaluation wants it.

    Raises:
        DatasetError: the root is not Aff-Wild2's, or no sample is left.
    """
    root = check_root(root)
    if window < 1:
        raise DatasetError(
            f"window is {window} clips.", cure=f"Choose {WINDOW_CLIPS}, as published, or 1 for a sample a clip."
        )
    if not modalities or any(one not in ("faces", "audio") for one in modalities):
        raise DatasetError(f"modalities are {list(modalities)}.", cure="Choose faces, audio or both of them.")
    if stride < 1 or (window > 1 and stride != CLIP_FRAMES):
        raise DatasetError(
            f"stride is {stride}" + (f" with windows of {window} clips." if stride >= 1 else "."),
            cure="Choose at least 1, and 32 with windows, whose clips follow one another; a window of 1 takes any.",
        )
    scanner = _Scanner(root, window, tuple(modalities), stride)
    recordings = scanner.scan()
    if not recordings:
        what = f"{root} has no sample with {' and '.join(modalities)} and a valid label."
        raise nothing_left(what, scanner.findings, "Restore the annotations.")
    return Scan(
        name="affwild2",
        task="regression",
        targets=TARGETS,
        classes=(),
        recordings=tuple(sorted(recordings, key=lambda one: one.sample_id)),
        findings=tuple(scanner.findings),
        found=scanner.found,
    )


def clip_ends(count: int, stride: int = CLIP_FRAMES) -> np.ndarray:
    """The last frame of each clip of a video, numbered from 1.

    Args:
        count: frames of the video.
        stride: frames from one clip to the next.

    Returns:
        int64, ascending; the last is ``count``.

    Example:
        >>> clip_ends(70).tolist(), clip_ends(64).tolist(), clip_ends(9).tolist()
        ([32, 64, 70], [32, 64], [9])
    """
    ends = np.arange(min(CLIP_FRAMES, stride), count + 1, stride, dtype=np.int64)
    return ends if count < 1 or (len(ends) and ends[-1] == count) else np.append(ends, np.int64(count))


def clip_windows(ends: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of ``size`` clips in a row that hold every clip of a video.

    The last window is moved back to end with the last clip; a video of fewer clips has its first repeated in front.

    Args:
        ends: the last frame of each clip, as ``clip_ends`` gives them, at least one.
        size: clips a window.

    Returns:
        For each window the last frames of its clips, int64 [size], and which of its clips are there for the first time,
        bool [size].

    Example:
        >>> [(clips.tolist(), new.tolist()) for clips, new in clip_windows(np.array([32, 64, 70]), 2)]
        [([32, 64], [True, True]), ([64, 70], [False, True])]
        >>> [(clips.tolist(), new.tolist()) for clips, new in clip_windows(np.array([9]), 3)]
        [([9, 9, 9], [False, False, True])]
    """
    seen = max(0, size - len(ends))
    clips = np.concatenate([np.repeat(ends[:1], seen), ends])
    windows = []
    for start in (*range(0, len(clips) - size, size), len(clips) - size):
        inside = np.arange(start, start + size)
        windows.append((clips[inside], inside >= seen))
        seen = start + size
    return windows


def clip_frames(end: int) -> np.ndarray:
    """The 8 frames of the clip that ends with frame ``end``, int64 numbers from 1, 0 for padding before the video.

    Example:
        >>> clip_frames(32).tolist(), clip_frames(9).tolist()
        ([4, 8, 12, 16, 20, 24, 28, 32], [0, 0, 0, 0, 0, 1, 5, 9])
    """
    frames = np.arange(end - CLIP_FRAMES + CLIP_STEP, end + 1, CLIP_STEP, dtype=np.int64)
    return np.maximum(frames, 0)


def read_annotation(path: Path) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Valence and arousal of each frame.

    Args:
        path: ``valence,arousal`` in the first line, then one comma pair a frame; -5 is invalid.

    Returns:
        float32 [N, 2], both NaN where either is invalid, and what was odd, as (kind, sentence).

    Raises:
        DatasetError: the file cannot be read or has no frames.
    """
    with reading(path):
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    odd = []
    columns = [0, 1]
    header = [name.strip().lower() for name in lines[0].split(",")] if lines else []
    if header == ["arousal", "valence"]:
        columns = [1, 0]
        odd.append(("arousal before valence", f"{path} has arousal before valence; its header is followed."))
    elif header != list(TARGETS):
        odd.append(("no header", f"{path} starts with '{lines[0] if lines else ''}' and not with 'valence,arousal'."))
    rows = lines if _pair(lines[0] if lines else "") is not None else lines[1:]
    if not rows:
        raise DatasetError(f"{path} has no frames.", cure="Restore it from the original archive.")
    pairs = [_pair(row) for row in rows]
    unread = [number for number, pair in enumerate(pairs, start=1) if pair is None]
    if unread:
        odd.append(
            (
                "unreadable rows",
                f"{path} has {len(unread)} rows that are no pair of numbers, of the frames {some(unread)}; they are "
                "taken as invalid.",
            )
        )
    values = np.array([pair or (INVALID, INVALID) for pair in pairs], dtype=np.float32)[:, columns]
    outside = (np.abs(values) > 1) & (values != INVALID)
    if outside.any():
        frames = np.flatnonzero(outside.any(axis=1)) + 1
        odd.append(
            (
                "outside [-1, 1]",
                f"{path} has {len(frames)} frames with a value outside [-1, 1], such as {values[outside][0]:g}, at "
                f"{some(frames)}; they are taken as invalid.",
            )
        )
    invalid = ~(np.abs(values) <= 1).all(axis=1)
    values[invalid] = np.nan
    return values, odd


def _pair(row: str) -> tuple[float, float] | None:
    first, comma, second = row.partition(",")
    try:
        return (float(first), float(second)) if comma else None
    except ValueError:
        return None


@dataclass
class _Scanner:
    root: Path
    window: int
    modalities: tuple[str, ...]
    stride: int
    findings: list[Finding] = field(default_factory=list)
    found: dict[str, int | float | str] = field(default_factory=dict)

    def add(self, kind: str, where: str, what: str, harm: Any, cure: str = "", samples: Sequence[str] = ()) -> None:
        self.findings.append(Finding(kind, where, what, harm, cure, tuple(samples)))

    def count(self, key: str, amount: int = 1) -> None:
        self.found[key] = int(self.found.get(key, 0)) + amount

    def scan(self) -> list[Recording]:
        annotations = self.annotation_files()
        faces = self.face_folders() if "faces" in self.modalities else {}
        media = self.media_files() if "audio" in self.modalities else {}
        for key in ("frames", "invalid frames", "frames without a face", "faces beyond the annotations"):
            self.found[key] = 0
        recordings = []
        for path, part in annotations:
            recordings += self.recordings_of(path, part, faces, media)
        annotated = {path.stem for path, _ in annotations}
        for name in sorted(set(faces) - annotated):
            self.add(
                "faces without annotation",
                name,
                f"{faces[name]} has no annotation in Train_Set or Validation_Set: of the test part or another track.",
                "note",
            )
        videos = {_SIDE.sub("", name) for name in annotated} | annotated
        for name in sorted(set(media) - videos):
            self.add(
                "video without annotation",
                name,
                f"{media[name]} has no annotation in Train_Set or Validation_Set: of the test part or another track.",
                "note",
            )
        return recordings

    def annotation_files(self) -> list[tuple[Path, str]]:
        tracks = find_named(self.root, _TRACKS, _DEPTH)
        named = [path for name in _TRACKS for path in tracks.get(name, ())]
        if not named:
            raise wrong_root(self.root, "Aff-Wild2", _EXPECTED, _TRACKS)
        track, *others = named
        self.found["annotations"] = str(track.relative_to(self.root))
        for other in others:
            self.add(
                "second annotations", str(other), f"{other} is not read; {track} is.", "note", "Remove one of them."
            )
        pairs = []
        for folder in folders(track):
            if folder.name not in _PARTS:
                self.add("other part", str(folder), f"{folder} is neither Train_Set nor Validation_Set.", "note")
                continue
            files = []
            for path in entries(folder):
                if path.suffix == ".txt" and not path.is_dir():
                    files.append(path)
                else:
                    self.add("unknown file", str(path), f"{path} is no annotation and is not read.", "note")
            self.found[f"annotations of {folder.name}"] = len(files)
            pairs += [(path, _PARTS[folder.name]) for path in files]
        if not pairs:
            raise DatasetError(
                f"{track} has no annotations in Train_Set or Validation_Set; it holds "
                f"{some(path.name for path in entries(track))}.",
                cure="Unpack the annotations of the valence-arousal track there.",
            )
        return pairs

    def face_folders(self) -> dict[str, Path]:
        named = find_named(self.root, _FACES, _DEPTH)
        if not named:
            raise wrong_root(self.root, "Aff-Wild2", _EXPECTED, _FACES)
        for name in _FACES:
            if name not in named:
                self.add(
                    "faces missing",
                    name,
                    f"There is no {name}/ below {self.root}; its recordings have no faces.",
                    "note",
                    "Unpack it too.",
                )
        children = [
            (child.name, child)
            for name in _FACES
            for folder in named.get(name, ())
            for child in folders(folder)
            if child.name not in _FACES
        ]
        first, again = gather(children)
        for name, path in again:
            self.add("faces twice", name, f"{path} holds faces of {name} a second time; {first[name]} is read.", "note")
        self.found["face folders"] = len(first)
        return first

    def media_files(self) -> dict[str, Path]:
        named = find_named(self.root, _MEDIA, _DEPTH)
        if not named:
            raise wrong_root(self.root, "Aff-Wild2", _EXPECTED, _MEDIA)
        pairs = []
        for name in _MEDIA:
            if name not in named:
                self.add("videos missing", name, f"There is no {name}/ below {self.root}.", "note", "Unpack it too.")
            for folder in named.get(name, ()):
                for path in entries(folder):
                    if path.suffix.lower() not in _VIDEOS or path.is_dir():
                        if path.name not in _FACES and path.name not in _MEDIA:
                            self.add("unknown file", str(path), f"{path} is no .mp4 or .avi and is not read.", "note")
                    elif why := unusable(path):
                        self.add("unusable file", str(path), why, "note", "Restore it from the original archive.")
                    else:
                        pairs.append((path.stem, path))
        first, again = gather(pairs)
        for name, path in again:
            self.add("video twice", name, f"{path} is a second video of {name}; {first[name]} is read.", "note")
        self.found["videos"] = len(first)
        return first

    def recordings_of(self, path: Path, part: str, faces: dict[str, Path], media: dict[str, Path]) -> list[Recording]:
        name = path.stem
        try:
            values, odd = read_annotation(path)
        except DatasetError as error:
            self.add("unreadable annotation", name, error.what, "left out", error.cure or "", (name,))
            return []
        for kind, what in odd:
            self.add(kind, name, what, "kept")
        self.count("frames", len(values))
        valid = ~np.isnan(values[:, 0])
        self.count("invalid frames", int((~valid).sum()))
        groups = self.groups(name, len(values))
        ids = [sample for sample, _, _ in groups]
        sources: dict[str, Path] = {}
        present = np.ones(len(values) + 1, dtype=bool)
        if "faces" in self.modalities:
            if name not in faces:
                self.add(
                    "no faces",
                    name,
                    f"{path} has no folder {name} in {' or '.join(_FACES)}.",
                    "left out",
                    "Unpack its faces.",
                    ids,
                )
                return []
            sources["faces"] = faces[name]
            present = self.present_faces(name, faces[name], len(values))
            if not present.any():
                self.add(
                    "no faces",
                    name,
                    f"{faces[name]} has no image of the frames 1 to {len(values)}.",
                    "left out",
                    "Unpack its faces.",
                    ids,
                )
                return []
        if "audio" in self.modalities:
            video = media.get(name) or media.get(_SIDE.sub("", name))
            if video is None:
                self.add(
                    "no video",
                    name,
                    f"{path} has no {_SIDE.sub('', name)}.mp4 or .avi in {', '.join(_MEDIA)}.",
                    "left out",
                    "Unpack its video, or import without audio.",
                    ids,
                )
                return []
            sources["video"] = sources["audio"] = video
        recordings, lost = [], []
        for sample, ends, new in groups:
            one = self.recording(sample, name, part, sources, ends, new, values, present)
            if one is None:
                lost.append(sample)
            else:
                recordings.append(one)
        if lost:
            self.add(
                "invalid label",
                name,
                f"{len(lost)} of {len(groups)} {'clips' if self.window == 1 else 'windows'} of {name} have no valid "
                f"label (-5): {some(lost)}.",
                "left out",
                samples=lost,
            )
        return recordings

    def groups(self, name: str, count: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(sample, last frames of its clips, whether their labels are its own)."""
        ends = clip_ends(count, self.stride)
        if self.window == 1:
            return [(f"{name}-{end:05d}", np.array([end]), np.array([True])) for end in ends]
        windows = clip_windows(ends, self.window)
        return [(f"{name}-w{index:03d}", clips, new) for index, (clips, new) in enumerate(windows)]

    def present_faces(self, name: str, folder: Path, count: int) -> np.ndarray:
        """Whether each frame has an image, bool [count + 1] by frame number; 0, the padding, is False."""
        numbers = [int(match[1]) for path in entries(folder) if (match := _IMAGE.fullmatch(path.name))]
        present = np.zeros(count + 1, dtype=bool)
        inside = [number for number in numbers if 1 <= number <= count]
        present[inside] = True
        absent = count - len(inside)
        beyond = sorted(number for number in numbers if number > count)
        self.count("frames without a face", absent)
        self.count("faces beyond the annotations", len(beyond))
        if beyond:
            self.count("recordings whose faces outnumber their annotations")
            self.add(
                "faces beyond the annotations",
                name,
                f"{folder} goes up to frame {beyond[-1]}, the annotations of {name} to {count}: {len(beyond)} faces "
                "have no label.",
                "note",
            )
        return present

    def recording(
        self,
        sample: str,
        name: str,
        part: str,
        sources: dict[str, Path],
        ends: np.ndarray,
        new: np.ndarray,
        values: np.ndarray,
        present: np.ndarray,
    ) -> Recording | None:
        """One sample; None if no label of it is valid."""
        targets = np.where(new[:, None], values[ends - 1], np.float32(np.nan))
        mask = ~np.isnan(targets[:, 0])
        if not mask.any():
            return None
        frames = np.stack([clip_frames(int(end)) for end in ends])
        known = present[frames] & (frames > 0)
        single = self.window == 1
        return Recording(
            sample_id=sample,
            subject_id=_SIDE.sub("", name),
            sequence_id=name,
            sources=dict(sources),
            target=targets[0] if single else targets,
            frames=frames[0] if single else frames,
            mask=None if mask.all() else mask,
            part=part,
            extra={"last_frames": ends, "faces": known[0] if single else known},
        )
