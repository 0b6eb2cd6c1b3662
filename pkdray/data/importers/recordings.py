"""What a scan of recordings finds: the samples to cut, what stands in their way, and how they are dealt to splits.

A scan reads names, sizes and annotations, never a frame or a sound, so that a user learns in seconds or minutes what
hours of face detection would be spent on.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pkdray.data.faults import some
from pkdray.data.importers import protocols
from pkdray.data.importers.protocols import Assignment, Finding
from pkdray.errors import DatasetError

__all__ = ["Finding", "Recording", "Report", "Scan"]

_THUMBNAILS = {"thumbs.db", "desktop.ini"}
_SHOWN_ENTRIES = 12


@dataclass(frozen=True, eq=False)
class Recording:
    """One sample to be cut from recordings.

    Args:
        sample_id: unique in the scan.
        subject_id: who is seen; splits keep subjects whole.
        sequence_id: the recording that the sample is a part of.
        sources: where each kind of data lies: ``video``, ``audio``, ``biosignals``, ``frame_times`` are files,
            ``faces`` and ``frames`` folders of images.
        target: an index into the classes; or float32 [n], one value a target; or float32 [T, n], one a frame. NaN where
            ``mask`` is False.
        start_s: where the sample starts in its sources (s); None where only ``frames`` says it.
        end_s: where it ends (s), exclusive.
        frames: int64 numbers of the images as their files are named (from 1), 0 where padded; any shape.
        mask: bool [T], False where a frame's label is invalid; None where all are valid.
        part: the set's own part, ``train``, ``dev`` or ``test``; None where the set has none.
        extra: what else the set says of the sample, as plain values or arrays.
    """

    sample_id: str
    subject_id: str
    sequence_id: str
    sources: Mapping[str, Path]
    target: int | np.ndarray
    start_s: float | None = None
    end_s: float | None = None
    frames: np.ndarray | None = None
    mask: np.ndarray | None = None
    part: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A scan in numbers and in words.

    Args:
        counts: by name; ``subjects``, ``samples`` and ``left out`` are always there.
        lines: for a console, without markup.
    """

    counts: Mapping[str, int | float | str]
    lines: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """What a set's folder holds.

    Args:
        name: ``biovid``, ``affwild2`` or ``recola``.
        task: ``classification`` or ``regression``.
        targets: names of the targets; ``("target",)`` for classification.
        classes: names of the classes; empty for regression.
        recordings: the samples, in an order that depends on their ids alone.
        findings: whatever is not as it should be; each sample that was left out is in one of them.
        found: what there is, by name: numbers, or which of several layouts.
        tracks: by sequence_id, the whole track of labels as read, float32 [T, n], where samples are cut from tracks.
        track_rate: labels a second of the tracks (Hz).
    """

    name: str
    task: Literal["classification", "regression"]
    targets: tuple[str, ...]
    classes: tuple[str, ...]
    recordings: tuple[Recording, ...]
    findings: tuple[Finding, ...] = ()
    found: Mapping[str, int | float | str] = field(default_factory=dict)
    tracks: Mapping[str, np.ndarray] = field(default_factory=dict)
    track_rate: float | None = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """The names of the protocols that this set is reported on."""
        return tuple(protocols.PROTOCOLS[self.name])

    @property
    def target_frames(self) -> int | None:
        """T where each sample has one target a frame, None for one target a sample."""
        for one in self.recordings:
            if isinstance(one.target, np.ndarray) and one.target.ndim == 2:
                return len(one.target)
        return None

    @property
    def unlabelled(self) -> int:
        """How many frames of the samples have no label."""
        return sum(int((~one.mask).sum()) for one in self.recordings if one.mask is not None)

    @property
    def target_columns(self) -> list[str]:
        """The columns of the samples' table that hold the targets."""
        return ["target"] if self.task == "classification" else [f"target_{name}" for name in self.targets]

    def limited(self, count: int) -> Scan:
        """A small part of the scan, for a trial: samples of as many subjects, classes and parts as ``count`` allows.

        Args:
            count: how many samples to keep, at least 1.

        Raises:
            DatasetError: ``count`` is below 1.
        """
        if count < 1:
            raise DatasetError(f"The limit is {count}.", cure="Choose at least 1.")
        if count >= len(self.recordings):
            return self
        groups: dict[tuple[str | None, str, Any], list[Recording]] = {}
        for one in self.recordings:
            label = one.target if self.task == "classification" else None
            groups.setdefault((one.part, one.subject_id, label), []).append(one)
        seen: Counter[str | None] = Counter()
        ranked = []
        for (part, _, _), members in groups.items():
            # The first of every group, then the second; among the first, each part in turn.
            ranked += [(rank, seen[part], one) for rank, one in enumerate(members)]
            seen[part] += 1
        ranked.sort(key=lambda item: item[:2])
        kept = {id(one) for _, _, one in ranked[:count]}
        rest = tuple(one.sample_id for one in self.recordings if id(one) not in kept)
        finding = Finding(
            "limit",
            self.name,
            f"{len(rest)} of {len(self.recordings)} samples are beyond the limit of {count}.",
            "left out",
            "Import without a limit for the whole set.",
            rest,
        )
        recordings = tuple(one for one in self.recordings if id(one) in kept)
        return replace(self, recordings=recordings, findings=(*self.findings, finding))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The ids of the samples that are not among the recordings, sorted."""
        return tuple(
            sorted({one for finding in self.findings if finding.harm == "left out" for one in finding.samples})
        )

    def assign(self, protocol: str, *, seed: int = 0, val_fraction: float = 0.15) -> Assignment:
        """Deal the subjects to splits and folds; see ``protocols.assign``.

        Raises:
            DatasetError: there is no such protocol for this set, or too few subjects for it.
        """
        labels = None
        if self.task == "classification":
            labels = [int(one.target) for one in self.recordings]
        return protocols.assign(
            protocols.named(self.name, protocol),
            [one.subject_id for one in self.recordings],
            labels=labels,
            parts=[one.part for one in self.recordings],
            sample_ids=[one.sample_id for one in self.recordings],
            seed=seed,
            val_fraction=val_fraction,
        )

    def samples(self, protocol: str, *, seed: int = 0, val_fraction: float = 0.15) -> pd.DataFrame:
        """The samples' table as ``write_dataset`` takes it.

        Args:
            protocol: one of ``protocols``.
            seed: of whatever the protocol leaves to chance.
            val_fraction: the share of the training samples that validation gets, where the protocol names no
                validation set.

        Returns:
            One row a sample that the protocol uses: sample_id, subject_id, sequence_id, the target columns (one a frame
            as float32 arrays [T], NaN for a frame without a label), split and, with folds, fold.

        Raises:
            DatasetError: there is no such protocol for this set, or too few subjects for it.
        """
        dealt = self.assign(protocol, seed=seed, val_fraction=val_fraction)
        used = [one for one in self.recordings if one.sample_id in dealt.samples]
        columns: dict[str, Any] = {
            "sample_id": [one.sample_id for one in used],
            "subject_id": [one.subject_id for one in used],
            "sequence_id": [one.sequence_id for one in used],
        }
        for index, column in enumerate(self.target_columns):
            if self.task == "classification":
                columns[column] = np.array([one.target for one in used], dtype=np.int64)
            elif self.target_frames is None:
                columns[column] = np.array([_array(one.target)[index] for one in used], dtype=np.float32)
            else:
                cells = [np.ascontiguousarray(_array(one.target)[:, index]) for one in used]
                columns[column] = pd.Series(cells, dtype=object)
        columns["split"] = [dealt.split[one.subject_id] for one in used]
        if dealt.fold is not None:
            columns["fold"] = np.array([dealt.fold[one.subject_id] for one in used], dtype=np.int64)
        return pd.DataFrame(columns)

    def report(self, protocol: str | None = None, *, seed: int = 0, val_fraction: float = 0.15) -> Report:
        """What was found, what is left out and why.

        Args:
            protocol: also say what this protocol makes of it.
            seed: as for ``samples``.
            val_fraction: as for ``samples``.

        Raises:
            DatasetError: there is no such protocol for this set, or too few subjects for it.
        """
        subjects = len({one.subject_id for one in self.recordings})
        lost = set(self.left_out)
        counts: dict[str, int | float | str] = {
            "subjects": subjects,
            "sequences": len({one.sequence_id for one in self.recordings}),
            "samples": len(self.recordings),
            "left out": len(lost),
        }
        if self.unlabelled:
            counts["unlabelled frames"] = self.unlabelled
        for index, name in enumerate(self.classes):
            counts[f"class {name}"] = sum(one.target == index for one in self.recordings)
        counts.update(self.found)
        findings = self.findings
        if protocol is not None:
            dealt = self.assign(protocol, seed=seed, val_fraction=val_fraction)
            findings += dealt.findings
            for split in ("train", "val", "test"):
                inside = [one for one in self.recordings if dealt.split.get(one.subject_id) == split]
                inside = [one for one in inside if one.sample_id in dealt.samples]
                counts[f"{protocol} {split} subjects"] = len({one.subject_id for one in inside})
                counts[f"{protocol} {split} samples"] = len(inside)
            if dealt.fold is not None:
                counts[f"{protocol} folds"] = len(set(dealt.fold.values()))
        lines = [f"{self.name}: {len(self.recordings)} samples of {subjects} subjects, {len(lost)} samples left out"]
        lines += [f"  {name}: {value}" for name, value in counts.items() if name not in ("samples", "left out")]
        lines += _finding_lines(findings)
        return Report(counts, tuple(lines))


def _array(target: int | np.ndarray) -> np.ndarray:
    return np.asarray(target)


def _finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """One line a kind of finding, the most harmful first."""
    order = {"left out": 0, "kept": 1, "note": 2}
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.harm, finding.kind), []).append(finding)
    for (harm, kind), group in sorted(groups.items(), key=lambda item: order[item[0][0]]):
        if len(group) == 1:
            yield f"{harm}: {kind}: {group[0]}"
            continue
        affected = sum(len(finding.samples) for finding in group)
        amount = f"{len(group)} times" + (f", {affected} samples" if affected else "")
        yield f"{harm}: {kind}: {amount}: {some(finding.where for finding in group)}. The first: {group[0]}"


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files (``.DS_Store``, ``._x``) and thumbnails' tables.

    Raises:
        DatasetError: the folder cannot be read.
    """
    with reading(folder):
        found = sorted(folder.iterdir())
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in _THUMBNAILS]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the file system or a decoder says of ``path`` into a ``DatasetError``."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}", cure="Restore it from the original archive, or let yourself read it."
        ) from error


def folders(folder: Path) -> list[Path]:
    """The folders in ``folder``, sorted by name, without hidden ones."""
    # scandir knows what is a folder without asking for each of what may be millions of images.
    with reading(folder), os.scandir(folder) as found:
        names = sorted(entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir())
    return [folder / name for name in names]


def find_named(root: Path, names: Iterable[str], depth: int) -> dict[str, list[Path]]:
    """Folders below ``root`` that have one of ``names``.

    Folders that match are searched only for further matches with one of ``names`` right inside them (archives unpack to
    ``x/x``), since they may hold hundreds of thousands of images.

    Args:
        root: where to search; not itself a match.
        names: to look for, letter for letter.
        depth: how many levels to go down; 1 looks at the folders in ``root`` alone.

    Returns:
        By name, the matches that are more than a wrapper around folders of ``names``, sorted; names without one are
        absent.
    """
    wanted = set(names)
    found: dict[str, list[Path]] = {}
    level = [root]
    for step in range(depth):
        following = []
        for parent in level:
            for path in folders(parent):
                if path.name in wanted:
                    inner = [path]
                    while inner:
                        one = inner.pop()
                        within = [sub for sub in (one / name for name in wanted) if sub.is_dir()]
                        inner.extend(within)
                        if not within or len(entries(one)) > len(within):
                            found.setdefault(one.name, []).append(one)
                elif step + 1 < depth:
                    following.append(path)
        level = following
    return {name: sorted(paths) for name, paths in found.items()}


def check_root(root: Path) -> Path:
    """``root`` as a Path, if it is a folder that holds anything.

    Raises:
        DatasetError: it does not exist, is a file, or is empty.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}.", cure="Give the folder that the set was unpacked to.")
    if not entries(root):
        raise DatasetError(f"{root} is empty.", cure="Give the folder that the set was unpacked to.")
    return root


def wrong_root(root: Path, what: str, expected: Sequence[str], missing: Sequence[str], depth: int = 3) -> DatasetError:
    """The error for a root that lacks folders, with what is there instead and the nearest guess.

    Args:
        root: what was given.
        what: the set, as in "BioVid".
        expected: the folders and files that the root of this set holds, as a person should read them.
        missing: names of folders, any of which tells the right root from a wrong one.
        depth: how many levels below ``root`` to look for the right one.
    """
    names = [path.name + ("/" if path.is_dir() else "") for path in entries(root)]
    shown = ", ".join(names[:_SHOWN_ENTRIES]) + (", ..." if len(names) > _SHOWN_ENTRIES else "")
    error = f"{root} is not a root of {what}: expected there are {', '.join(expected)}; it holds {shown or 'nothing'}."
    for name in missing:
        below = find_named(root, [name], depth)
        guesses = [path.parent for paths in below.values() for path in paths if path.parent != root]
        if guesses:
            return DatasetError(error, cure=f"Perhaps you mean {guesses[0]}, which holds {name}/.")
    for parent in root.parents[:2]:
        beside = [name for name in missing if (parent / name).is_dir()]
        if beside:
            return DatasetError(error, cure=f"Perhaps you mean {parent}, which holds {beside[0]}/.")
    for name in missing:
        close = difflib.get_close_matches(name, [entry.rstrip("/") for entry in names], n=1)
        if close:
            return DatasetError(error, cure=f"Perhaps {close[0]} is what should be called {name}: then rename it.")
    return DatasetError(error, cure="Give the folder that holds them.")


def nothing_left(what: str, findings: Sequence[Finding], cure: str) -> DatasetError:
    """The error for a scan without a sample, with the first that was left out.

    Args:
        what: a sentence that says what there is none of.
        findings: of the scan.
        cure: where nothing was left out.
    """
    first = next((one for one in findings if one.harm == "left out"), None)
    return DatasetError(
        what,
        details=[str(first)] if first else [],
        cure="Look at the first that was left out." if first else cure,
    )


def gather(names: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], list[tuple[str, Path]]]:
    """The first path of each name, and whatever came again under a name that was taken."""
    first: dict[str, Path] = {}
    again = []
    for name, path in names:
        if name in first:
            again.append((name, path))
        else:
            first[name] = path
    return first, again


def unusable(path: Path) -> str | None:
    """Why a file cannot hold a recording, as a sentence; None if it may.

    Empty files are what a download leaves that ran out of space, broken links what an archive leaves that was moved.
    """
    try:
        if path.stat().st_size == 0:
            return f"{path} has 0 bytes."
    except OSError as error:
        return f"{path} cannot be opened: {error.strerror}."
    return None if os.access(path, os.R_OK) else f"{path} cannot be opened: you may not read it."


def counted(values: Iterable[str]) -> str:
    """How often each value occurs, as ``a 3, b 2``, sorted by name.

    Example:
        >>> counted(["b", "a", "b"])
        'a 1, b 2'
    """
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(values).items()))
