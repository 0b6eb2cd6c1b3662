"""Splits and folds that keep every subject whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pkdray.data.faults import some
from pkdray.errors import DatasetError

_NAMES = ("train", "val", "test")


def split_by_subject(
    subject_ids: Sequence[str] | np.ndarray,
    strata: Sequence[object] | np.ndarray | None = None,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> np.ndarray:
    """Deal subjects to train, val and test so that the shares of samples come close to ``fractions``.

    A subject's stratum is its majority class. Strata are dealt one by one; the first subject of each goes to train.

    Args:
        subject_ids: the subject of each of N samples.
        strata: the class of each sample, or None (regression).
        fractions: shares of samples of train, val and test: positive, adding up to 1.
        seed: the same seed deals in the same way.

    Returns:
        ``"train"``, ``"val"`` or ``"test"`` for each sample, an object array [N].

    Raises:
        DatasetError: the fractions are no shares, or the subjects are too few to fill three splits with every class in
            train.

    Example:
        >>> split_by_subject(["a", "a", "b", "c"], fractions=(0.5, 0.25, 0.25)).tolist()
        ['train', 'train', 'test', 'val']
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise DatasetError(
            f"The split fractions are {list(fractions)}.", cure="Give three positive numbers that add up to 1."
        )
    codes, names, classes = _encode(subject_ids, strata)
    count = len(names)
    if count < 3:
        raise DatasetError(
            f"{count} subjects cannot be split into train, val and test: {some(names)}.",
            cure="Give at least three subjects, or your own split column.",
        )
    sizes = np.bincount(codes, minlength=count)
    part = np.full(count, -1)
    dealt = np.zeros(3)
    for members in _strata(codes, classes, count, sizes, seed):
        wanted = shares * sizes[members].sum()
        got = np.zeros(3)
        for position, subject in enumerate(members):
            # Small strata alone would all round to train; what all strata got so far evens that out.
            so_far = shares * (dealt.sum() + sizes[subject]) - dealt
            choice = 0 if position == 0 else int(np.argmax(wanted - got + so_far))
            part[subject] = choice
            got[choice] += sizes[subject]
            dealt[choice] += sizes[subject]
    _keep_classes_in_train(part, sizes, codes, classes)
    _fill_empty(part, sizes, codes, classes)
    if len(set(part.tolist())) < 3:
        raise DatasetError(
            f"{count} subjects cannot be split so that train has every class and val and test are not empty.",
            cure="Give more subjects of the rare classes, or your own split column.",
        )
    return np.array(_NAMES, dtype=object)[part[codes]]


def folds_by_subject(
    subject_ids: Sequence[str] | np.ndarray,
    k: int,
    seed: int = 0,
    strata: Sequence[object] | np.ndarray | None = None,
) -> np.ndarray:
    """Deal subjects to ``k`` folds of about the same number of samples.

    Without ``strata`` the largest and the smallest fold differ by at most the samples of the largest subject.

    Args:
        subject_ids: the subject of each of N samples.
        k: the number of folds, at least 3 (one is test, one is val).
        seed: the same seed deals in the same way.
        strata: the class of each sample, to spread the classes over the folds first, or None.

    Returns:
        The fold of each sample, int64 [N], from 0 to k - 1.

    Raises:
        DatasetError: k is below 3 or above the number of subjects.

    Example:
        >>> np.bincount(folds_by_subject(["a", "a", "b", "c", "d"], 3)).tolist()
        [2, 2, 1]
    """
    codes, names, classes = _encode(subject_ids, strata)
    if not 3 <= k <= len(names):
        raise DatasetError(
            f"{k} folds cannot be made of {len(names)} subjects.",
            cure="Choose at least 3 folds (test, val and train) and at most one a subject.",
        )
    sizes = np.bincount(codes, minlength=len(names))
    fold = np.empty(len(names), dtype=np.int64)
    totals = np.zeros(k, dtype=np.int64)
    for members in _strata(codes, classes, len(names), sizes, seed):
        got = np.zeros(k, dtype=np.int64)
        for subject in members:
            # The largest subjects come first, each to the smallest fold.
            choice = int(np.lexsort((totals, got))[0])
            fold[subject] = choice
            got[choice] += sizes[subject]
            totals[choice] += sizes[subject]
    return fold[codes]


def _encode(
    subject_ids: Sequence[str] | np.ndarray, strata: Sequence[object] | np.ndarray | None
) -> tuple[np.ndarray, pd.Index, np.ndarray]:
    # Sorted names, so that the result does not depend on the order of the rows.
    codes, names = pd.factorize(np.asarray(subject_ids, dtype=object), sort=True)
    if strata is None:
        return codes, pd.Index(names), np.zeros(len(codes), dtype=np.int64)
    classes, _ = pd.factorize(np.asarray(strata), sort=True)
    return codes, pd.Index(names), classes


def _strata(codes: np.ndarray, classes: np.ndarray, count: int, sizes: np.ndarray, seed: int) -> list[np.ndarray]:
    """Subjects by majority class, each group shuffled, then the largest first."""
    votes = np.zeros((count, int(classes.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(votes, (codes, classes), 1)
    majority = votes.argmax(axis=1)
    shuffled = np.random.default_rng(seed).permutation(count)
    groups = []
    for stratum in np.unique(majority):
        members = shuffled[majority[shuffled] == stratum]
        groups.append(members[np.argsort(-sizes[members], kind="stable")])
    return groups


def _fill_empty(part: np.ndarray, sizes: np.ndarray, codes: np.ndarray, classes: np.ndarray) -> None:
    """Give an empty val or test the smallest subject that train can spare, or that the other one has in plenty.

    With two subjects more than classes one is always found: a train in which every subject is the only one of some
    class has no more subjects than classes.
    """
    for choice in (1, 2):
        if (part == choice).any():
            continue
        for subject in sorted(range(len(part)), key=lambda one: (part[one] != 0, sizes[one])):
            if part[subject] == 0:
                others = (part[codes] == 0) & (codes != subject)
                spare = bool(np.isin(classes[codes == subject], classes[others]).all())
            else:
                spare = int((part == part[subject]).sum()) > 1
            if spare:
                part[subject] = choice
                break


def _keep_classes_in_train(part: np.ndarray, sizes: np.ndarray, codes: np.ndarray, classes: np.ndarray) -> None:
    """Move to train the smallest subject that has a class which train lacks, until it lacks none."""
    while True:
        in_train = part[codes] == 0
        lacking = ~np.isin(classes, classes[in_train])
        if not lacking.any():
            return
        counts = Counter(part.tolist())
        # A split's last subject stays if another will do.
        subjects = sorted(set(codes[lacking].tolist()), key=lambda one: (counts[part[one]] == 1, sizes[one]))
        part[subjects[0]] = 0
