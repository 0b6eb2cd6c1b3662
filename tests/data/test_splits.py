from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray.data.splits import folds_by_subject, split_by_subject
from pkdray.errors import DatasetError

cohorts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=1, max_size=60)
seeds = st.integers(0, 99)


@given(cohorts, seeds)
def test_subjects_stay_whole_classes_stay_in_train_and_no_split_is_empty(cohort, seed):
    subjects = [f"p{subject}" for subject, _ in cohort]
    classes = [label for _, label in cohort]
    try:
        split = split_by_subject(subjects, classes, seed=seed)
    except DatasetError:
        # Refused only where three splits would need more subjects than there are beside one a class.
        assert len(set(subjects)) < 2 + len(set(classes))
        return
    assert set(split) == {"train", "val", "test"}
    home = dict(zip(subjects, split, strict=True))
    assert all(home[subject] == name for subject, name in zip(subjects, split, strict=True))
    in_train = {label for label, name in zip(classes, split, strict=True) if name == "train"}
    assert in_train == set(classes)


@given(cohorts, seeds)
def test_the_order_of_rows_does_not_matter(cohort, seed):
    subjects = np.array([f"p{subject}" for subject, _ in cohort], dtype=object)
    if len(set(subjects)) < 3:
        return
    order = np.random.default_rng(seed).permutation(len(subjects))
    assert np.array_equal(split_by_subject(subjects, seed=3)[order], split_by_subject(subjects[order], seed=3))
    assert np.array_equal(folds_by_subject(subjects, 3, 5)[order], folds_by_subject(subjects[order], 3, 5))


def test_shares_and_strata_come_out_close():
    subjects = np.repeat(np.arange(301), 3)
    classes = np.repeat(np.arange(301) % 7, 3)
    split = split_by_subject(subjects, classes, fractions=(0.6, 0.3, 0.1), seed=1)
    for name, share in (("train", 0.6), ("val", 0.3), ("test", 0.1)):
        assert (split == name).mean() == pytest.approx(share, abs=0.01)
        for label in range(7):
            assert (split[classes == label] == name).mean() == pytest.approx(share, abs=0.03)


def test_many_small_strata_still_fill_val_and_test():
    split = split_by_subject(np.arange(40), np.arange(40) // 2, seed=0)
    assert (split == "train").mean() == pytest.approx(0.7, abs=0.05)


def test_one_seed_one_split():
    subjects = np.arange(50)
    assert np.array_equal(split_by_subject(subjects, seed=4), split_by_subject(subjects, seed=4))
    assert not np.array_equal(split_by_subject(subjects, seed=4), split_by_subject(subjects, seed=5))
    assert not np.array_equal(folds_by_subject(subjects, 5, 4), folds_by_subject(subjects, 5, 5))


def test_a_class_that_is_nobodys_majority_is_kept_in_train():
    # Only p9 ever shows class 1, once in five samples.
    subjects = np.repeat(np.arange(10), 5)
    classes = np.zeros(50, dtype=int)
    classes[-1] = 1
    for seed in range(20):
        assert split_by_subject(subjects, classes, seed=seed)[-1] == "train"


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (0.9, 0.2, -0.1)])
def test_fractions_that_are_no_shares(fractions):
    with pytest.raises(DatasetError, match="fractions"):
        split_by_subject(["a", "b", "c"], fractions=fractions)


def test_too_few_subjects():
    with pytest.raises(DatasetError, match=r"2 subjects cannot be split.*'a', 'b'"):
        split_by_subject(["a", "b", "a"])
    with pytest.raises(DatasetError, match="every class"):
        split_by_subject(["a", "b", "c"], ["calm", "glad", "sad"])


@given(cohorts, st.integers(3, 6), seeds)
def test_folds_keep_subjects_whole_and_are_balanced(cohort, k, seed):
    subjects = np.array([subject for subject, _ in cohort])
    if len(set(subjects)) < k:
        with pytest.raises(DatasetError, match=f"{k} folds"):
            folds_by_subject(subjects, k, seed)
        return
    folds = folds_by_subject(subjects, k, seed)
    assert set(folds) == set(range(k))
    for subject in set(subjects):
        assert len(set(folds[subjects == subject])) == 1
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= np.bincount(subjects).max()


def test_strata_are_spread_over_the_folds():
    classes = np.arange(60) % 4
    folds = folds_by_subject(np.arange(60), 5, 0, classes)
    assert np.array_equal(np.bincount(folds), [12] * 5)
    assert all(set(np.bincount(folds[classes == label])) == {3} for label in range(4))


def test_two_folds_leave_nothing_to_train_on():
    with pytest.raises(DatasetError, match="at least 3"):
        folds_by_subject(["a", "b", "c"], 2)
