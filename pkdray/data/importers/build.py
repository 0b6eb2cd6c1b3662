"""From a scan to a dataset: sample by sample into a work folder that outlives a kill, then published as a whole.

The work folder is ``DEST.partial`` beside ``DEST``:

* ``manifest.json``: the set, the options that samples depend on, and a fingerprint of the scan.
* ``samples/<xx>/<sample_id>.npz``: one finished sample each, written atomically.
* ``arrays/<modality>.npy``: all samples of a modality, as they are assembled at the end.
* ``workers/``: what several processes leave for one another (``distributed``).

Who wins when an import is continued: options that samples depend on must be the same, or it is refused. What does not
change a sample (protocol, seed, limit, targets) may be another each time. A finished sample counts if its file is
undamaged and was made from recordings of the same sizes; else it is made again.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pkdray.data import validation
from pkdray.data.dataset import Dataset, DatasetInfo, check_destination, write_dataset
from pkdray.data.faults import Faults, some
from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers.extract import (
    MODALITIES,
    Extracted,
    MediaOptions,
    Sources,
    described,
    extract,
    in_order,
)
from pkdray.data.importers.recordings import Recording, Scan
from pkdray.data.info import Modality, RecordingsInfo
from pkdray.data.mapped import MappedArray
from pkdray.data.media.delay import shift_back
from pkdray.errors import DatasetError, StorageError
from pkdray.files import fingerprint, storage_errors, write_atomic, write_json

MANIFEST = "manifest.json"
FORMAT = 1
"""Of what a sample's file holds and how it is made: another number is another option."""

REPORT_COLUMNS = (
    "sample_id",
    "subject_id",
    "sequence_id",
    "state",
    "frames",
    "faces",
    "retained",
    "clamped frames",
    "clamped sound (s)",
    "reason",
)
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
# Samples, arrays and the dataset's own copy lie on the disk at the same time at the end.
_COPIES = 3


_CITATIONS = {
    "biovid": "Walter et al. (2013), The BioVid Heat Pain Database.",
    "affwild2": "Kollias and Zafeiriou (2018), Aff-Wild2: Extending the Aff-Wild Database for Affect Recognition.",
    "recola": "Ringeval et al. (2013), Introducing the RECOLA Multimodal Corpus of Remote Collaborative and Affective "
    "Interactions.",
}


Outcome = tuple[str, DatasetError | None]
"""A sample's id, and why it could not be made; None where its file is written."""

Maker = Callable[["Work", Sequence[Recording]], Generator[Outcome, None, None]]
"""Makes samples, in any order and anywhere; yields the outcome of each."""


@dataclass(frozen=True)
class ImportProgress:
    """Where an import stands.

    Args:
        done: samples that are finished, those of an earlier attempt included.
        kept: how many of them were finished before this attempt.
        failed: samples that could not be made and are left out.
        total: samples of the scan.
        seconds: since this attempt started.
        seconds_left: an estimate; None before anything was made.
    """

    done: int
    kept: int
    failed: int
    total: int
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True, eq=False)
class Imported:
    """What came of an import.

    Args:
        dataset: as published.
        report: the table beside it, one row a sample of the scan.
        counts: of samples, frames, faces.
        failures: why each sample that could not be made was left out, by sample_id.
        leftover: the dataset was there already, from an attempt that was killed before it had removed its work folder.
    """

    dataset: Dataset
    report: Path
    counts: Mapping[str, int | float]
    failures: Mapping[str, str]
    leftover: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """An import that can go ahead, as far as can be told without reading a recording.

    Args:
        scan: what will be made.
        info: of the dataset, if every sample can be made.
        options: how samples are made.
        protocol: who is in which split.
        seed: of what the protocol leaves to chance.
        dest: the folder to make.
    """

    scan: Scan
    info: DatasetInfo
    options: MediaOptions
    protocol: str
    seed: int
    dest: Path

    @property
    def partial(self) -> Path:
        """The work folder."""
        return self.dest.with_name(f"{self.dest.name}.partial")

    @property
    def report(self) -> Path:
        """The table of samples, beside the dataset, whose folder holds nothing but what its checksums name."""
        return self.dest.with_name(f"{self.dest.name}.report.csv")

    @property
    def bytes(self) -> int:
        """Bytes that the import takes on the disk at its largest."""
        sample = sum(modality.size * modality.dtype.itemsize for modality in self.info.modalities.values())
        return _COPIES * sample * len(self.scan.recordings)


def without_delay(scan: Scan, delay_s: float) -> Scan:
    """RECOLA's clips with the annotators' delay taken out: each frame gets what was annotated ``delay_s`` later.

    At the end of a recording the annotations were never made: the clip in which they end has frames without a label,
    those after it are left out. The delay is the same for all splits: estimate it on train alone (``estimate_delay``).

    Args:
        scan: of RECOLA.
        delay_s: seconds, 0 or more, rounded to whole labels (40 ms).

    Raises:
        DatasetError: the scan has no tracks of labels, or the delay is negative or longer than they are.
    """
    if scan.track_rate is None:
        raise DatasetError(f"{scan.name} has no tracks of labels to be shifted.", cure="Leave the delay out.")
    tracks = {}
    for name, track in scan.tracks.items():
        tracks[name] = shift_back(track, delay_s, scan.track_rate)
        tracks[name][len(track) - round(delay_s * scan.track_rate) :] = np.nan
    return recola.relabelled(scan, tracks)


def make_plan(dest: Path, scan: Scan, options: MediaOptions, *, protocol: str, seed: int = 0, notes: str = "") -> Plan:
    """Check all that can be checked before hours are spent: destination, protocol, splits, classes, disk.

    Samples that the protocol leaves out are not made. Where a frame of the others has no label, the dataset says that
    it has such frames (``missing_targets``).

    Args:
        dest: the folder to make; it may exist if it is empty.
        scan: of the recordings.
        options: how samples are made.
        protocol: one of ``scan.protocols``.
        seed: of what the protocol leaves to chance.
        notes: what else a user of the dataset must know.

    Raises:
        DatasetError: ``dest`` is not empty; the set has no such modality or protocol; the splits cannot be had of these
            samples; an import to ``dest`` with other options was started.
        StorageError: the disk has too little space.
    """
    dest = Path(dest)
    if dest.name in ("", ".."):
        dest = dest.resolve()
    check_destination_free(dest)
    dealt = scan.assign(protocol, seed=seed)
    findings = (*scan.findings, *dealt.findings)
    used = tuple(one for one in scan.recordings if one.sample_id in dealt.samples)
    scan = replace(scan, recordings=used, findings=findings)
    info = DatasetInfo(
        name=f"{scan.name} {protocol}",
        task=scan.task,
        targets=scan.targets,
        classes=scan.classes,
        target_frames=scan.target_frames,
        missing_targets=scan.unlabelled > 0,
        modalities=described(scan.name, options),
        recordings=RecordingsInfo.model_validate({"name": scan.name, "options": asdict(options)}),
        source=scan.name,
        licence="As the licence of the recordings says: do not pass on.",
        citation=_CITATIONS[scan.name],
        notes=f"{_notes(scan, options, protocol, seed)} {notes}".strip(),
    )
    faults = Faults()
    validation.check_modalities(info, faults)
    validation.check_samples(info, scan.samples(protocol, seed=seed), faults)
    faults.raise_if_any(f"The protocol {protocol} for these samples of {scan.name}")
    plan = Plan(scan, info, options, protocol, seed, dest)
    Work(plan).check()
    return plan


def scan_for(name: str, root: Path, modalities: Sequence[str] = (), **options: Any) -> tuple[Scan, tuple[str, ...]]:
    """Scan a set for samples that have what some modalities are made of.

    Args:
        name: ``biovid``, ``affwild2`` or ``recola``.
        root: its folder.
        modalities: of ``MODALITIES``; empty for all of them, for RECOLA without biosignals where there are none.
        options: of that set's ``scan``; None where it decides.

    Returns:
        The scan, and the modalities.

    Raises:
        DatasetError: there is no such modality; the root is not that set's; no sample is left.
    """
    chosen = tuple(modalities) or MODALITIES[name]
    if not modalities and name == "recola" and not (Path(root) / "recordings_physio").is_dir():
        chosen = ("face", "voice")
    described(name, MediaOptions(chosen))
    kinds = {
        "biovid": {"face": "video"},
        "affwild2": {"face": "faces", "voice": "audio"},
        "recola": {"face": "video", "voice": "audio"},
    }[name]
    needed: Any = tuple(dict.fromkeys(kinds.get(one, "biosignals") for one in chosen))
    scanner: Any = {"biovid": biovid, "affwild2": affwild2, "recola": recola}[name]
    given = {key: value for key, value in options.items() if value is not None}
    kind = given.get("signals", given.get("physio", "raw"))
    if kind not in ("filtered", "raw"):
        raise DatasetError(f"The biosignals asked for are '{kind}'.", cure="Choose filtered or raw.")
    return scanner.scan(root, modalities=needed, **given), chosen


def media_options(scan: Scan, modalities: Sequence[str], *, part: str = "A", **options: Any) -> MediaOptions:
    """The options that fit what a scan found: raw biosignals are filtered, EMG is of a muscle that was recorded, and a
    sample has as many clips as the scan's windows.

    Args:
        scan: of the recordings.
        modalities: as ``scan_for`` gives them.
        part: of BioVid. The corrugator, which shows pain best, is dead in part A, where the trapezius is taken.
        options: of ``MediaOptions``; None where this decides.

    Raises:
        DatasetError: an option is out of its domain, or the muscle was not recorded.
    """
    given = {key: value for key, value in options.items() if value is not None}
    recorded = part != "A" or scan.found.get("layout") == "pre-cut images"
    given.setdefault("emg", "emg_corrugator" if recorded else "emg_trapezius")
    if not recorded and given["emg"] in ("emg_corrugator", "emg_zygomaticus") and "emg" in modalities:
        raise DatasetError(
            f"The channel {given['emg']} is dead in all of BioVid's part A.",
            cure="Take part B for it, or emg_trapezius.",
        )
    raw = "raw" in (scan.found.get("biosignals"), scan.found.get("physiology"))
    window = scan.target_frames or 1 if scan.name == "affwild2" else 1
    return MediaOptions(tuple(modalities), unfiltered=raw, window=window, **given)


def check_destination_free(dest: Path) -> None:
    """Refuse a destination that holds anything but a dataset whose import was killed before it had tidied up.

    Raises:
        DatasetError: it does, or it lies in what is no folder.
    """
    unfinished = (dest.with_name(f"{dest.name}.partial") / MANIFEST).is_file() and (dest / "dataset.yaml").is_file()
    if (dest.exists() or dest.is_symlink()) and not unfinished:
        check_destination(dest)
    for parent in dest.absolute().parents:
        if parent.exists() and not parent.is_dir():
            raise DatasetError(f"{parent} is a file, so {dest} cannot be made.", cure="Choose another folder.")


def run_import(
    plan: Plan,
    progress: Callable[[ImportProgress], object] = lambda _: None,
    *,
    device: str = "cpu",
    check: Callable[[], None] = lambda: None,
    maker: Maker | None = None,
) -> Imported:
    """Make every sample that is not made yet, then the dataset.

    A sample that cannot be made is left out, with its reason in the report; the rest goes on. Stopped at any moment,
    it goes on from there when it is called again.

    What was left out by an earlier attempt is tried again: it may have been mended. Where an earlier attempt had
    published this very dataset, only what it left behind is removed.

    Args:
        plan: of ``make_plan``.
        progress: called at the start and after every sample.
        device: where faces are found: ``cpu``, ``cuda``.
        check: called after every sample; raises what is to stop the import.
        maker: who makes the samples, such as ``distributed.Pool``; None for this process.

    Raises:
        DatasetError: no sample could be made, or too few for the protocol; whatever the maker raises.
        StorageError: a folder cannot be written.
    """
    check_destination_free(plan.dest)
    work = Work(plan)
    if (dataset := work.published()) is not None:
        table = pd.read_csv(plan.report, dtype={"sample_id": str})
        lost = table[table["state"] == "left out"]
        reasons = dict(zip(lost["sample_id"].astype(str), lost["reason"].astype(str), strict=True))
        work.remove()
        return Imported(dataset, plan.report, _counts(table, dataset), reasons, leftover=True)
    if plan.dest.exists():
        check_destination(plan.dest)
    work.open()
    recordings = in_order(plan.scan.recordings)
    kept = {one.sample_id for one in recordings if work.has(one)}
    todo = [one for one in recordings if one.sample_id not in kept]
    # Others' devices are their own; this process makes again what is found damaged at the end.
    sources = Sources(plan.options, device if maker is None else "cpu")
    failures: dict[str, str] = {}
    started = time.monotonic()

    def tell(made: int) -> None:
        seconds = time.monotonic() - started
        ended = made + len(failures)
        left = seconds / ended * (len(todo) - ended) if ended else None
        progress(ImportProgress(len(kept) + made, len(kept), len(failures), len(recordings), seconds, left))

    tell(0)
    made = (maker or _made_here(sources))(work, todo)
    with closing(made):
        for count, (name, error) in enumerate(made, start=1):
            if error is not None:
                failures[name] = " ".join(str(error).split())
            tell(count - len(failures))
            check()
    # Whoever was first: the report names them in the order of the samples.
    return _publish(plan, work, sources, {one: failures[one] for one in sorted(failures)})


def _made_here(sources: Sources) -> Maker:
    def make(work: Work, todo: Sequence[Recording]) -> Generator[Outcome, None, None]:
        for one in todo:
            try:
                work.make(one, sources)
            except DatasetError as error:
                yield one.sample_id, error
            else:
                yield one.sample_id, None

    return make


def _publish(plan: Plan, work: Work, sources: Sources, failures: dict[str, str]) -> Imported:
    if len(failures) == len(plan.scan.recordings):
        first = next(iter(failures.items()))
        raise DatasetError(
            f"None of the {len(failures)} samples could be made.",
            details=[f"{first[0]}: {first[1]}"],
            cure="Mend the first, then run the same command again.",
        )
    made = [one for one in plan.scan.recordings if one.sample_id not in failures]
    scan = replace(plan.scan, recordings=tuple(made))
    samples = scan.samples(plan.protocol, seed=plan.seed)
    by_id = {one.sample_id: one for one in made}
    ordered = [by_id[name] for name in samples["sample_id"]]
    features, reports = work.assemble(ordered, sources)
    table = _report(plan.scan.recordings, reports, failures)
    write_atomic(plan.report, lambda path: table.to_csv(path, index=False))
    dataset = write_dataset(plan.dest, plan.info, samples, features)
    # The arrays are mapped: on some systems a file that is open cannot be removed.
    features.clear()
    work.remove()
    return Imported(dataset, plan.report, _counts(table, dataset), failures)


def _counts(table: pd.DataFrame, dataset: Dataset) -> dict[str, int | float]:
    imported = int((table["state"] == "imported").sum())
    counts: dict[str, int | float] = {"samples": imported, "left out": len(table) - imported}
    if dataset.info.missing_targets:
        counts["unlabelled frames"] = int((~np.isfinite(dataset.targets()).all(axis=-1)).sum())
    for name in REPORT_COLUMNS[4:-1]:
        if table[name].notna().any():
            total = float(table[name].sum())
            counts[name] = int(total) if total.is_integer() else round(total, 3)
    return counts


def _report(
    recordings: Sequence[Recording], reports: Mapping[str, Mapping[str, int | float]], failures: Mapping[str, str]
) -> pd.DataFrame:
    rows = [
        {
            "sample_id": one.sample_id,
            "subject_id": one.subject_id,
            "sequence_id": one.sequence_id,
            "state": "left out" if one.sample_id in failures else "imported",
            **reports.get(one.sample_id, {}),
            "reason": failures.get(one.sample_id, ""),
        }
        for one in recordings
    ]
    table = pd.DataFrame(rows, columns=list(REPORT_COLUMNS))
    whole = ["frames", "faces", "retained", "clamped frames"]
    table[whole] = table[whole].astype("Int64")
    return table


def _notes(scan: Scan, options: MediaOptions, protocol: str, seed: int) -> str:
    """Who is where and how samples were made, as far as it concerns the set; and what is unsure."""
    name = scan.name
    foreign = {"modalities"}
    if name != "biovid":
        foreign |= {"biosignals", "emg"}
    if name != "recola":
        foreign |= {"voice"}
    if name != "affwild2":
        foreign |= {"window"}
    if name == "affwild2":
        foreign |= {"margin", "min_face_size", "every", "unfiltered"}
    said = ", ".join(f"{key} {value}" for key, value in asdict(options).items() if key not in foreign)
    unsure = f" {biovid.UNCONFIRMED_C}" if scan.found.get("layout") == "part C" else ""
    return f"Imported from recordings by protocol {protocol}, seed {seed}; {said}.{unsure}"


@dataclass(eq=False)
class Work:
    """The work folder of an import."""

    plan: Plan
    _sizes: dict[Path, int] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        """What the folder is."""
        return self.plan.partial / MANIFEST

    def travelling(self) -> Work:
        """As it goes to other processes: the same folder, and no more of the scan than making a sample takes."""
        scan = replace(self.plan.scan, recordings=(), findings=(), found={}, tracks={})
        return Work(replace(self.plan, scan=scan, dest=self.plan.dest.absolute()))

    def options(self) -> dict[str, Any]:
        """Whatever a sample depends on besides its recording, as JSON gives it back."""
        said = {"format": FORMAT, "set": self.plan.scan.name, **asdict(self.plan.options)}
        return json.loads(json.dumps(said))

    def check(self) -> None:
        """Refuse to go on with other options, or on a disk that is too small.

        Raises:
            DatasetError: the work folder was made with other options, or is none.
            StorageError: the disk has too little space.
        """
        partial = self.plan.partial
        if partial.exists() and any(partial.iterdir() if partial.is_dir() else [partial]):
            try:
                before = dict(json.loads(self.manifest.read_text(encoding="utf-8"))["options"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DatasetError(
                    f"{partial} is not the work folder of an import: its manifest.json cannot be read ({error}).",
                    cure="Remove it, or choose another destination.",
                ) from error
            now = self.options()
            changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
            if changed:
                raise DatasetError(
                    f"An import to {self.plan.dest} was started with other options than these.",
                    details=[f"{key} was {before.get(key)}, now it is {now.get(key)}." for key in changed],
                    cure=f"Give the same options to go on with it, or remove {partial} to start anew.",
                )
        parent = next(one for one in partial.absolute().parents if one.is_dir())
        free = shutil.disk_usage(parent).free + _used(partial)
        if free < self.plan.bytes:
            raise StorageError(
                f"The import to {self.plan.dest} takes up to {self.plan.bytes / 1e9:.1f} GB while it runs; "
                f"{free / 1e9:.1f} GB are free.",
                cure="Free some space, choose another folder, or import a part (--limit).",
            )

    def open(self) -> None:
        """Make the folder, or go on with it; see ``check``."""
        self.check()
        about = {
            "about": "An unfinished import: run the same command again to go on, or remove this folder.",
            "options": self.options(),
            "scan": self.scan_key(),
            "samples": len(self.plan.scan.recordings),
        }
        with storage_errors(self.plan.partial):
            self.plan.partial.mkdir(parents=True, exist_ok=True)
        write_json(self.manifest, about)

    def path(self, sample_id: str) -> Path:
        """Where a finished sample lies."""
        # Up to a hundred thousand files: no folder gets more than a few hundred.
        name = urllib.parse.quote(sample_id, safe="")
        return self.plan.partial / "samples" / fingerprint(sample_id)[:2] / f"{name}.npz"

    def key(self, one: Recording) -> str:
        """A fingerprint of what a sample is made of; no path enters it, since a disk may be mounted elsewhere."""
        extra = {name: np.asarray(value).tolist() for name, value in one.extra.items()}
        frames = None if one.frames is None else one.frames.tolist()
        sizes = {name: [path.name, self.size(path)] for name, path in sorted(one.sources.items())}
        return fingerprint([one.sample_id, one.start_s, one.end_s, frames, extra, sizes])

    def size(self, path: Path) -> int:
        """Bytes of a file, 0 of a folder, -1 of what cannot be seen; looked up once."""
        if path not in self._sizes:
            try:
                self._sizes[path] = 0 if path.is_dir() else path.stat().st_size
            except OSError:
                self._sizes[path] = -1
        return self._sizes[path]

    def remove(self) -> None:
        """Remove the folder, the manifest last: whoever finds a part of it knows what it was."""
        for path in self.plan.partial.iterdir():
            if path != self.manifest:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.plan.partial, ignore_errors=True)

    def published(self) -> Dataset | None:
        """The dataset that this import published before it was killed; None if ``dest`` is not that.

        Told by the manifest that was left behind (the options, and what the recordings were) and by what the dataset
        says of itself (the protocol, who is in it).

        Raises:
            DatasetError: the dataset was damaged.
        """
        if not (self.manifest.is_file() and (self.plan.dest / "dataset.yaml").is_file()):
            return None
        try:
            about = json.loads(self.manifest.read_text(encoding="utf-8"))
            left = {key: about[key] for key in ("options", "scan")}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if left != {"options": self.options(), "scan": self.scan_key()} or not self.plan.report.is_file():
            return None
        dataset = Dataset.open(self.plan.dest)
        unsealed = dataset.info.model_copy(update={"checksums": {}, "fingerprint": ""})
        ids = set(dataset.samples["sample_id"])
        made = [one for one in self.plan.scan.recordings if one.sample_id in ids]
        samples = replace(self.plan.scan, recordings=tuple(made)).samples(self.plan.protocol, seed=self.plan.seed)
        same = all(
            list(samples[column]) == list(dataset.samples[column])
            for column in ("sample_id", "subject_id", "sequence_id", "split")
        )
        return dataset if same and unsealed.to_dict() == self.plan.info.to_dict() else None

    def scan_key(self) -> str:
        """A fingerprint of what all samples are made of."""
        return fingerprint([self.key(one) for one in self.plan.scan.recordings])

    def has(self, one: Recording) -> bool:
        """Whether a sample is finished: its file ends where it should and is of this recording."""
        try:
            # The table of contents stands at a file's end, so one that was cut short has none.
            with np.load(self.path(one.sample_id), allow_pickle=False) as file:
                return str(file["key"]) == self.key(one) and set(self.plan.info.modalities) < set(file.files)
        except _DAMAGE:
            return False

    def make(self, one: Recording, sources: Sources) -> Extracted:
        """Make a sample and write its file.

        Raises:
            DatasetError: it cannot be made.
            StorageError: its file cannot be written.
        """
        made = extract(self.plan.scan.name, one, self.plan.options, sources)
        for name, modality in self.plan.info.modalities.items():
            values = made.arrays[name]
            if values.shape != modality.shape or values.dtype != modality.dtype:
                raise DatasetError(
                    f"{one.sample_id} has {name} {list(values.shape)} of {values.dtype}, not {list(modality.shape)}.",
                    cure="Report this to pkdray.",
                )
            if modality.kind == "features" and not np.isfinite(values).all():
                raise DatasetError(f"{one.sample_id} has {name} with NaN or infinity.", cure="Restore its recording.")
        content: dict[str, Any] = {"key": self.key(one), "report": json.dumps(dict(made.report)), **made.arrays}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **content)

        write_atomic(self.path(one.sample_id), write)
        return made

    def load(self, one: Recording, sources: Sources) -> Extracted:
        """A finished sample; made again if its file turns out to be damaged inside."""
        try:
            with np.load(self.path(one.sample_id), allow_pickle=False) as file:
                arrays = {name: file[name] for name in self.plan.info.modalities}
                return Extracted(arrays, json.loads(str(file["report"])))
        except _DAMAGE:
            return self.make(one, sources)

    def assemble(
        self, ordered: Sequence[Recording], sources: Sources
    ) -> tuple[dict[str, np.ndarray | MappedArray], dict[str, Mapping[str, int | float]]]:
        """All samples of each modality in one file, and what was reported of each sample."""
        folder = self.plan.partial / "arrays"
        files = {name: folder / f"{name}.npy" for name in self.plan.info.modalities}
        reports = {}
        with storage_errors(folder):
            folder.mkdir(exist_ok=True)
            arrays = {name: _mapped(files[name], len(ordered), self.plan.info.modalities[name]) for name in files}
            for row, one in enumerate(ordered):
                sample = self.load(one, sources)
                reports[one.sample_id] = sample.report
                for name, values in sample.arrays.items():
                    arrays[name][row] = values
            for array in arrays.values():
                array.flush()
        features: dict[str, np.ndarray | MappedArray] = {}
        for name, modality in self.plan.info.modalities.items():
            features[name] = MappedArray.open(files[name]) if modality.kind == "images" else arrays[name]
        return features, reports


def _mapped(path: Path, count: int, modality: Modality) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=modality.dtype, shape=(count, *modality.shape))


def _used(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())


def failure_lines(failures: Mapping[str, str]) -> list[str]:
    """Which samples could not be made, for a console: how many, and the first reason.

    Example:
        >>> failure_lines({"a-1": "No face was found."})
        ["left out: 1 samples that could not be made: 'a-1'. The first: No face was found."]
    """
    if not failures:
        return []
    first = next(iter(failures.values()))
    return [f"left out: {len(failures)} samples that could not be made: {some(failures)}. The first: {first}"]
