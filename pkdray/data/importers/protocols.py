"""The protocols that BioVid, Aff-Wild2 and RECOLA are reported on, as splits and folds that keep every subject whole.

How a protocol becomes train, val and test of pkdray (the search sees val, and test is opened once, by ``evaluate``):

* ``loso``: one fold a subject in the order of their ids; fold i is test, fold i + 1 val, the rest train (as
  ``Dataset.rows`` takes them). The ``split`` column, for work without folds, has subjects dealt 70/15/15, seeded.
* ``loso67``: the same without the 20 subjects who hardly react.
* ``5-fold``: subjects dealt to five folds, seeded. The ``split`` column is that of fold 0: fold 0 is test, fold 1 val.
* ``61-26``: no folds. The 26 listed subjects are test; val comes out of the other 61.
* ``train/dev``: no folds. The set's dev part is test; val comes out of its train part.

The papers that use ``61-26`` and ``train/dev`` choose and report on the same subjects. Here val is carved out of the
training subjects (seeded, ``val_fraction`` of their samples, at least one subject, every class left in train), so that
nothing is chosen on what is reported; the price is a somewhat smaller train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pkdray.data.faults import some
from pkdray.data.splits import folds_by_subject, split_by_subject
from pkdray.errors import DatasetError

Harm = Literal["left out", "kept", "note"]

_NON_REACTIVE = """
    082315_w_60 082414_m_64 082909_m_47 083009_w_42 083013_w_47 083109_m_60 083114_w_55 091914_m_46 092009_m_54
    092014_m_56 092509_w_51 092714_m_64 100514_w_51 100914_m_39 101114_w_37 101209_w_61 101809_m_59 101916_m_40
    111313_m_64 120614_w_61
"""
NON_REACTIVE = tuple(_NON_REACTIVE.split())
"""The 20 BioVid subjects that ``loso67`` leaves out because they hardly react to the pain."""

_HOLD_OUT = """
    100914_m_39 101114_w_37 082315_w_60 083114_w_55 083109_m_60 072514_m_27 080309_m_29 112016_m_25 112310_m_20
    092813_w_24 112809_w_23 112909_w_20 071313_m_41 101309_m_48 101609_m_36 091809_w_43 102214_w_36 102316_w_50
    112009_w_43 101814_m_58 101908_m_61 102309_m_61 112209_m_51 112610_w_60 112914_w_51 120514_w_56
"""
HOLD_OUT = tuple(_HOLD_OUT.split())
"""The 26 BioVid subjects that ``61-26`` reports on."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Args:
        kind: a few words; findings of one kind are reported together.
        where: the file, sample, subject or folder.
        what: a sentence that says what is wrong and names the value received.
        harm: ``left out`` (the samples are not imported), ``kept`` (imported all the same) or ``note``.
        cure: a sentence that says what to do about it; empty where nothing can or need be done.
        samples: ids of the samples that it concerns, where it concerns samples.

    Example:
        >>> print(Finding("no video", "071309_w_21-PA4-006", "There is no 071309_w_21-PA4-006.mp4.", "left out"))
        There is no 071309_w_21-PA4-006.mp4.
    """

    kind: str
    where: str
    what: str
    harm: Harm
    cure: str = ""
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} {self.cure}".strip()


@dataclass(frozen=True)
class Protocol:
    """Who is trained on and who is reported.

    Args:
        name: as the user names it.
        kind: ``leave-one-out``, ``folds``, ``hold-out`` (``reported`` are listed) or ``parts`` (the set's own).
        about: one line.
        subjects: how many the whole set has under this protocol; None where the set's parts say.
        excluded: subjects that it leaves out.
        reported: subjects that are test in a hold-out.
        folds: how many, for ``folds``.
    """

    name: str
    kind: Literal["leave-one-out", "folds", "hold-out", "parts"]
    about: str
    subjects: int | None = None
    excluded: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    folds: int | None = None


@dataclass(frozen=True, eq=False)
class Assignment:
    """Who is where.

    Args:
        split: ``train``, ``val`` or ``test`` by subject; subjects that the protocol leaves out are absent.
        fold: from 0 by subject, None without folds.
        samples: the ids of the samples that the protocol uses.
        findings: what the protocol leaves out or lacks.
    """

    split: Mapping[str, str]
    fold: Mapping[str, int] | None
    samples: frozenset[str]
    findings: tuple[Finding, ...]


_BIOVID = (
    Protocol("loso", "leave-one-out", "leave one of 87 subjects out", subjects=87),
    Protocol(
        "loso67", "leave-one-out", "leave one of the 67 subjects who react out", subjects=67, excluded=NON_REACTIVE
    ),
    Protocol("61-26", "hold-out", "train on 61 subjects, report on 26", subjects=87, reported=HOLD_OUT),
    Protocol("5-fold", "folds", "five folds of subjects (the authors': of samples)", subjects=87, folds=5),
)
_PARTS = Protocol("train/dev", "parts", "train on the train part, report on the dev part; test is withheld")

PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "biovid": {one.name: one for one in _BIOVID},
    "affwild2": {_PARTS.name: _PARTS},
    "recola": {_PARTS.name: _PARTS},
}
"""By set and by name; the first of a set is its default."""


def named(dataset: str, name: str) -> Protocol:
    """A protocol of a set by its name.

    Raises:
        DatasetError: the set has no such protocol.
    """
    known = PROTOCOLS[dataset]
    if name not in known:
        raise DatasetError(
            f"{dataset} has no protocol '{name}'.",
            cure=f"Choose from {', '.join(f'{one.name} ({one.about})' for one in known.values())}.",
        )
    return known[name]


def assign(
    protocol: Protocol,
    subject_ids: Sequence[str],
    *,
    labels: Sequence[int] | None = None,
    parts: Sequence[str | None] | None = None,
    sample_ids: Sequence[str] | None = None,
    seed: int = 0,
    val_fraction: float = 0.15,
) -> Assignment:
    """Deal subjects to splits and folds; the order of the samples does not matter.

    Args:
        protocol: how.
        subject_ids: the subject of each of N samples.
        labels: the class of each sample, so that train keeps every class; None for regression.
        parts: the set's own part of each sample, ``train``, ``dev`` or ``test``; needed for ``parts`` alone.
        sample_ids: unique ids; the positions 0 to N - 1 where None.
        seed: the same seed deals in the same way.
        val_fraction: in (0, 1), the share of the training samples that val gets in ``hold-out`` and ``parts``.

    Returns:
        Every subject in at most one split and one fold.

    Raises:
        DatasetError: there are too few subjects, nobody to report on, or no part; or the fraction is no share.

    Example:
        >>> dealt = assign(PROTOCOLS["biovid"]["loso"], ["c", "a", "b"])
        >>> dict(dealt.fold)
        {'a': 0, 'b': 1, 'c': 2}
    """
    if not 0 < val_fraction < 1:
        raise DatasetError(f"val_fraction is {val_fraction}, outside (0, 1).", cure="Choose a share such as 0.15.")
    ids = [str(one) for one in range(len(subject_ids))] if sample_ids is None else list(sample_ids)
    table = _Table(protocol, list(subject_ids), ids, None if labels is None else list(labels))
    table.exclude()
    if protocol.kind == "parts":
        return table.by_parts(list(parts or [None] * len(ids)), seed, val_fraction)
    table.compare_with_protocol()
    if protocol.kind == "hold-out":
        return table.held_out(seed, val_fraction)
    return table.folded(seed)


class _Table:
    """The samples of one protocol and what is found out about them."""

    def __init__(self, protocol: Protocol, subjects: list[str], ids: list[str], labels: list[int] | None) -> None:
        self.protocol = protocol
        self.subjects = subjects
        self.ids = ids
        self.labels = labels
        self.findings: list[Finding] = []

    def keep(self, mask: Sequence[bool]) -> None:
        """Go on with the samples where ``mask`` is True."""
        self.subjects = [one for one, kept in zip(self.subjects, mask, strict=True) if kept]
        self.ids = [one for one, kept in zip(self.ids, mask, strict=True) if kept]
        if self.labels is not None:
            self.labels = [one for one, kept in zip(self.labels, mask, strict=True) if kept]

    def samples_of(self, subject: str) -> tuple[str, ...]:
        return tuple(one for one, owner in zip(self.ids, self.subjects, strict=True) if owner == subject)

    def exclude(self) -> None:
        present = set(self.subjects)
        for subject in self.protocol.excluded:
            if subject in present:
                self.findings.append(
                    Finding(
                        f"excluded by {self.protocol.name}",
                        subject,
                        f"Subject {subject} is one of the {len(self.protocol.excluded)} that {self.protocol.name} "
                        "leaves out.",
                        "left out",
                        "Choose another protocol to keep them.",
                        self.samples_of(subject),
                    )
                )
        gone = set(self.protocol.excluded)
        self.keep([one not in gone for one in self.subjects])

    def compare_with_protocol(self) -> None:
        """Say who is missing, as far as the protocol names people, and how many."""
        present = set(self.subjects)
        expected = self.protocol.subjects
        absent = [one for one in self.protocol.reported if one not in present]
        if absent:
            self.findings.append(
                Finding(
                    "subjects of the protocol missing",
                    self.protocol.name,
                    f"{len(absent)} of the {len(self.protocol.reported)} subjects that {self.protocol.name} reports on "
                    f"are not here: {', '.join(absent)}.",
                    "note",
                    "Restore them before comparing with published figures.",
                )
            )
        if expected is not None and len(present) != expected:
            more = len(present) > expected
            self.findings.append(
                Finding(
                    "number of subjects",
                    self.protocol.name,
                    f"{self.protocol.name} has {expected} subjects, {len(present)} are here: {some(sorted(present))}.",
                    "note",
                    "Look which of them do not belong to the set."
                    if more
                    else "The import goes on with these; figures are not those of the whole set.",
                )
            )

    def held_out(self, seed: int, val_fraction: float) -> Assignment:
        reported = set(self.protocol.reported) & set(self.subjects)
        if not reported:
            raise DatasetError(
                f"None of the {len(self.protocol.reported)} subjects that {self.protocol.name} reports on is here; "
                f"here are {some(sorted(set(self.subjects)))}.",
                cure="Restore them, or choose another protocol.",
            )
        return self._with_val([one in reported for one in self.subjects], seed, val_fraction)

    def by_parts(self, parts: list[str | None], seed: int, val_fraction: float) -> Assignment:
        """The train part less val, and the dev part as test; a subject of both is kept for dev alone."""
        stray = sorted({one for one, part in zip(self.ids, parts, strict=True) if part not in ("train", "dev")})
        if stray:
            self.findings.append(
                Finding(
                    "outside train and dev",
                    self.protocol.name,
                    f"{len(stray)} samples are in neither the train nor the dev part: {some(stray)}.",
                    "left out",
                    "",
                    tuple(stray),
                )
            )
        known = [part in ("train", "dev") for part in parts]
        parts = [part for part, kept in zip(parts, known, strict=True) if kept]
        self.keep(known)
        for name in ("train", "dev"):
            if name not in parts:
                raise DatasetError(
                    f"{self.protocol.name} needs samples of the {name} part, but there are none.",
                    cure="Restore the annotations of that part, or import without a limit.",
                )
        dev = {one for one, part in zip(self.subjects, parts, strict=True) if part == "dev"}
        both = sorted({one for one, part in zip(self.subjects, parts, strict=True) if part == "train"} & dev)
        for subject in both:
            lost = tuple(
                one
                for one, owner, part in zip(self.ids, self.subjects, parts, strict=True)
                if owner == subject and part == "train"
            )
            self.findings.append(
                Finding(
                    "subject in train and dev",
                    subject,
                    f"'{subject}' is in both the train and the dev part; {len(lost)} samples of train are left out, or "
                    "a person would be trained and reported on.",
                    "left out",
                    "",
                    lost,
                )
            )
        if both:
            clean = [part == "dev" or one not in dev for one, part in zip(self.subjects, parts, strict=True)]
            self.keep(clean)
        return self._with_val([one in dev for one in self.subjects], seed, val_fraction)

    def _with_val(self, test: Sequence[bool], seed: int, val_fraction: float) -> Assignment:
        sizes: dict[str, int] = {}
        for one, reported in zip(self.subjects, test, strict=True):
            if not reported:
                sizes[one] = sizes.get(one, 0) + 1
        val = self._carve(sizes, seed, val_fraction)
        split = {one: "val" if one in val else "train" for one in sizes}
        split.update({one: "test" for one, reported in zip(self.subjects, test, strict=True) if reported})
        return self._assignment(split, None)

    def _carve(self, sizes: Mapping[str, int], seed: int, val_fraction: float) -> set[str]:
        """Training subjects for val: as many as fit its share, at least one; train keeps one and every class."""
        if len(sizes) < 2:
            raise DatasetError(
                f"{self.protocol.name} has {len(sizes)} training subjects here ({some(sizes)}), too few to choose "
                "hyperparameters on people who are neither trained nor reported on.",
                cure="Give at least two training subjects.",
            )
        names = sorted(sizes)
        budget = val_fraction * sum(sizes.values())
        val: set[str] = set()
        taken = 0
        for index in np.random.default_rng(seed).permutation(len(names)):
            subject = names[index]
            fits = not val or taken + sizes[subject] <= budget
            if fits and len(val) + 1 < len(names) and self._can_spare(set(sizes) - val, subject):
                val.add(subject)
                taken += sizes[subject]
        if not val:
            raise DatasetError(
                f"No training subject of {self.protocol.name} can be spared for validation: each is the only one of "
                f"some class, among {some(names)}.",
                cure="Give more subjects.",
            )
        return val

    def _can_spare(self, train: set[str], subject: str) -> bool:
        if self.labels is None:
            return True
        others, own = set(), set()
        for one, label in zip(self.subjects, self.labels, strict=True):
            if one == subject:
                own.add(label)
            elif one in train:
                others.add(label)
        return own <= others

    def folded(self, seed: int) -> Assignment:
        names = sorted(set(self.subjects))
        if len(names) < 3:
            raise DatasetError(
                f"{self.protocol.name} needs at least 3 subjects (test, val and train), {len(names)} are here: "
                f"{some(names)}.",
                cure="Give more subjects.",
            )
        array = np.array(self.subjects, dtype=object)
        if self.protocol.kind == "leave-one-out":
            fold = {one: index for index, one in enumerate(names)}
            dealt = split_by_subject(array, self.labels, seed=seed)
            split = dict(zip(self.subjects, dealt.tolist(), strict=True))
            return self._assignment(split, fold)
        wanted = self.protocol.folds or len(names)
        count = min(wanted, len(names))
        if count < wanted:
            self.findings.append(
                Finding(
                    "fewer folds",
                    self.protocol.name,
                    f"{wanted} folds need {wanted} subjects, {len(names)} are here: {count} folds are made.",
                    "note",
                )
            )
        folds = folds_by_subject(array, count, seed)
        fold = dict(zip(self.subjects, folds.tolist(), strict=True))
        split = {one: {0: "test", 1: "val"}.get(number, "train") for one, number in fold.items()}
        return self._assignment(split, fold)

    def _assignment(self, split: dict[str, str], fold: dict[str, int] | None) -> Assignment:
        return Assignment(split, fold, frozenset(self.ids), tuple(self.findings))
