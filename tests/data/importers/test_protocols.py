from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray.data.importers.protocols import HOLD_OUT, NON_REACTIVE, PROTOCOLS, assign, named
from pkdray.errors import DatasetError

BIOVID = PROTOCOLS["biovid"]
PARTS = PROTOCOLS["recola"]["train/dev"]
STRANGERS = tuple(f"0101{number:02d}_m_{20 + number}" for number in range(45))

seeds = st.integers(0, 99)
cohorts = st.lists(st.sampled_from(STRANGERS[:9] + HOLD_OUT[:7] + NON_REACTIVE[:4]), min_size=1, max_size=60)


def everyone() -> list[str]:
    """87 subjects, as in the set: the 41 who are named somewhere and 46 others."""
    known = sorted({*HOLD_OUT, *NON_REACTIVE})
    return known + [f"0202{number:02d}_w_{20 + number}" for number in range(87 - len(known))]


def labelled(subjects: list[str], each: int = 2) -> tuple[list[str], list[int]]:
    """Every subject has ``each`` samples of both classes."""
    return [one for one in subjects for _ in range(2 * each)], [0, 1] * (each * len(subjects))


def test_the_lists_are_those_of_the_reference_page():
    assert len(NON_REACTIVE) == len(set(NON_REACTIVE)) == 20
    assert len(HOLD_OUT) == len(set(HOLD_OUT)) == 26
    assert (NON_REACTIVE[0], NON_REACTIVE[-1]) == ("082315_w_60", "120614_w_61")
    assert (HOLD_OUT[0], HOLD_OUT[-1]) == ("100914_m_39", "120514_w_56")
    assert {one.name: one.subjects for one in BIOVID.values()} == {"loso": 87, "loso67": 67, "61-26": 87, "5-fold": 87}
    assert list(PROTOCOLS["affwild2"]) == list(PROTOCOLS["recola"]) == ["train/dev"]


def test_loso_has_a_fold_a_subject_over_all_87():
    subjects, labels = labelled(everyone())
    dealt = assign(BIOVID["loso"], subjects, labels=labels)
    assert sorted(dealt.fold.values()) == list(range(87))
    assert [dealt.fold[one] for one in sorted(dealt.fold)] == list(range(87))
    assert set(dealt.split.values()) == {"train", "val", "test"}
    assert dealt.findings == ()
    assert len(dealt.samples) == len(subjects)


def test_loso67_leaves_out_the_20_who_hardly_react_and_says_so_for_each():
    subjects, labels = labelled(everyone())
    ids = [f"s{number}" for number in range(len(subjects))]
    dealt = assign(BIOVID["loso67"], subjects, labels=labels, sample_ids=ids)
    assert len(dealt.fold) == len(dealt.split) == 67
    assert not set(dealt.fold) & set(NON_REACTIVE)
    assert {one.where for one in dealt.findings} == set(NON_REACTIVE)
    assert {one.harm for one in dealt.findings} == {"left out"}
    first = next(one for one in dealt.findings if one.where == "082315_w_60")
    assert str(first) == (
        "Subject 082315_w_60 is one of the 20 that loso67 leaves out. Choose another protocol to keep them."
    )
    assert first.samples == tuple(one for one, owner in zip(ids, subjects, strict=True) if owner == "082315_w_60")
    assert dealt.samples | {one for finding in dealt.findings for one in finding.samples} == set(ids)


def test_the_hold_out_reports_on_the_26_and_chooses_on_some_of_the_61():
    subjects, labels = labelled(everyone())
    dealt = assign(BIOVID["61-26"], subjects, labels=labels, seed=3)
    parts = {name: {one for one, part in dealt.split.items() if part == name} for name in ("train", "val", "test")}
    assert parts["test"] == set(HOLD_OUT)
    assert len(parts["train"] | parts["val"]) == 61
    # 0.15 of 61 subjects of equal size is 9.15.
    assert len(parts["val"]) == 9
    assert dealt.fold is None
    assert dealt.findings == ()


def test_five_folds_are_of_subjects_and_their_first_is_the_split():
    subjects, labels = labelled(everyone())
    dealt = assign(BIOVID["5-fold"], subjects, labels=labels, seed=1)
    assert sorted(np.bincount(list(dealt.fold.values())).tolist()) == [17, 17, 17, 18, 18]
    for subject, fold in dealt.fold.items():
        assert dealt.split[subject] == {0: "test", 1: "val"}.get(fold, "train")


def test_missing_subjects_are_named_and_the_rest_goes_on():
    subjects, labels = labelled([*STRANGERS[:11], *HOLD_OUT[:24]])
    dealt = assign(BIOVID["61-26"], subjects, labels=labels)
    assert [str(one) for one in dealt.findings] == [
        "2 of the 26 subjects that 61-26 reports on are not here: 112914_w_51, 120514_w_56. Restore them before "
        "comparing with published figures.",
        "61-26 has 87 subjects, 35 are here: '010100_m_20', '010101_m_21', '010102_m_22', '010103_m_23', "
        "'010104_m_24', .... The import goes on with these; figures are not those of the whole set.",
    ]
    assert {one.harm for one in dealt.findings} == {"note"}
    assert sum(part == "test" for part in dealt.split.values()) == 24


def test_more_subjects_than_the_set_has_are_told():
    subjects, _ = labelled([*everyone(), "990101_m_33"])
    (finding,) = assign(BIOVID["loso"], subjects).findings
    assert finding.what.startswith("loso has 87 subjects, 88 are here: ")
    assert finding.cure == "Look which of them do not belong to the set."


def test_fewer_subjects_than_folds_make_fewer_folds():
    dealt = assign(BIOVID["5-fold"], ["a", "b", "c", "d"])
    assert sorted(dealt.fold.values()) == [0, 1, 2, 3]
    assert str(dealt.findings[-1]) == "5 folds need 5 subjects, 4 are here: 4 folds are made."


@pytest.mark.parametrize(
    ("name", "subjects", "what", "cure"),
    [
        (
            "loso",
            ["a", "b"],
            "loso needs at least 3 subjects (test, val and train), 2 are here: 'a', 'b'.",
            "Give more subjects.",
        ),
        (
            "61-26",
            ["a", "b", "c"],
            "None of the 26 subjects that 61-26 reports on is here; here are 'a', 'b', 'c'.",
            "Restore them, or choose another protocol.",
        ),
        (
            "61-26",
            ["a", HOLD_OUT[0]],
            "61-26 has 1 training subjects here ('a'), too few to choose hyperparameters on people who are neither "
            "trained nor reported on.",
            "Give at least two training subjects.",
        ),
    ],
)
def test_too_few_subjects_are_refused(name, subjects, what, cure):
    with pytest.raises(DatasetError) as caught:
        assign(BIOVID[name], subjects)
    assert (caught.value.what, caught.value.cure) == (what, cure)


def test_a_train_in_which_nobody_can_be_spared_is_refused():
    with pytest.raises(DatasetError) as caught:
        assign(BIOVID["61-26"], ["a", "b", HOLD_OUT[0]], labels=[0, 1, 0])
    assert caught.value.what == (
        "No training subject of 61-26 can be spared for validation: each is the only one of some class, among 'a', 'b'."
    )
    assert caught.value.cure == "Give more subjects."


def test_an_unknown_protocol_and_a_fraction_that_is_none_are_refused():
    with pytest.raises(DatasetError) as caught:
        named("recola", "loso")
    assert caught.value.what == "recola has no protocol 'loso'."
    assert caught.value.cure == (
        "Choose from train/dev (train on the train part, report on the dev part; test is withheld)."
    )
    with pytest.raises(DatasetError) as caught:
        assign(BIOVID["loso"], ["a", "b", "c"], val_fraction=1.0)
    assert caught.value.what == "val_fraction is 1.0, outside (0, 1)."
    assert caught.value.cure == "Choose a share such as 0.15."


def test_train_and_dev_become_train_val_and_test():
    subjects = ["a"] * 5 + ["b"] * 3 + ["c"] * 7 + ["d"] * 2 + ["e"]
    parts = ["train"] * 15 + ["dev"] * 2 + ["test"]
    dealt = assign(PARTS, subjects, parts=parts, seed=2)
    assert dealt.split["d"] == "test"
    assert sorted(dealt.split[one] for one in "abc") == ["train", "train", "val"]
    (finding,) = dealt.findings
    assert (finding.what, finding.samples) == ("1 samples are in neither the train nor the dev part: '17'.", ("17",))
    assert finding.harm == "left out"


def test_a_person_of_both_parts_is_not_trained_on():
    subjects, parts = ["a", "a", "b", "b", "c", "d"], ["train", "dev", "train", "train", "train", "dev"]
    dealt = assign(PARTS, subjects, parts=parts)
    assert dealt.split["a"] == "test"
    assert dealt.samples == {"1", "2", "3", "4", "5"}
    (finding,) = dealt.findings
    assert finding.what == (
        "'a' is in both the train and the dev part; 1 samples of train are left out, or a person would be trained and "
        "reported on."
    )
    assert (finding.harm, finding.samples) == ("left out", ("0",))


@pytest.mark.parametrize("absent", ["train", "dev"])
def test_a_part_without_samples_is_refused(absent):
    there = {"train": "dev", "dev": "train"}[absent]
    with pytest.raises(DatasetError) as caught:
        assign(PARTS, ["a", "b"], parts=[there, there])
    assert caught.value.what == f"train/dev needs samples of the {absent} part, but there are none."
    assert caught.value.cure == "Restore the annotations of that part, or import without a limit."


@given(cohorts, st.sampled_from(sorted(BIOVID)), seeds, st.randoms())
def test_every_subject_is_in_one_place_whatever_the_order(subjects, name, seed, random):
    protocol = BIOVID[name]
    labels = [number % 2 for number in range(len(subjects))]
    kept = set(subjects) - set(protocol.excluded)
    reported = kept & set(protocol.reported)
    try:
        dealt = assign(protocol, subjects, labels=labels, seed=seed)
    except DatasetError:
        # Refused only where there is nobody to report on, or too few for three parts with both classes in train.
        few = len(kept) < 4 if protocol.kind != "hold-out" else len(kept - reported) < 3
        assert few or (protocol.kind == "hold-out" and not reported)
        return
    assert set(dealt.split) == kept
    assert set(dealt.split.values()) == {"train", "val", "test"}
    if dealt.fold is not None:
        assert set(dealt.fold) == kept
        assert set(dealt.fold.values()) == set(range(len(set(dealt.fold.values()))))
    else:
        assert {one for one, part in dealt.split.items() if part == "test"} == kept & set(HOLD_OUT)
        used = [(label, dealt.split[one]) for one, label in zip(subjects, labels, strict=True)]
        trained = {label for label, part in used if part == "train"}
        assert {label for label, part in used if part == "val"} <= trained
    left_out = {one for finding in dealt.findings if finding.harm == "left out" for one in finding.samples}
    assert dealt.samples | left_out == {str(number) for number in range(len(subjects))}
    assert not dealt.samples & left_out

    order = list(range(len(subjects)))
    random.shuffle(order)
    again = assign(protocol, [subjects[i] for i in order], labels=[labels[i] for i in order], seed=seed)
    assert (again.split, again.fold) == (dealt.split, dealt.fold)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["train", "dev", "test"])), min_size=1, max_size=40
    ),
    seeds,
    st.floats(0.01, 0.99),
)
def test_the_parts_keep_subjects_apart(samples, seed, fraction):
    subjects, parts = [one for one, _ in samples], [part for _, part in samples]
    try:
        dealt = assign(PARTS, subjects, parts=parts, seed=seed, val_fraction=fraction)
    except DatasetError:
        dev = {one for one, part in samples if part == "dev"}
        # Refused only without a dev part, or with one training subject at most.
        assert not dev or len({one for one, part in samples if part == "train"} - dev) < 2
        return
    used = [index for index in range(len(samples)) if str(index) in dealt.samples]
    assert set(dealt.split) == {subjects[index] for index in used}
    for index in used:
        assert (dealt.split[subjects[index]] == "test") == (parts[index] == "dev")
    assert set(dealt.split.values()) == {"train", "val", "test"}
    left_out = {one for finding in dealt.findings if finding.harm == "left out" for one in finding.samples}
    assert dealt.samples | left_out == {str(number) for number in range(len(samples))}


def test_one_seed_one_assignment():
    subjects, labels = labelled(everyone())
    for name in ("61-26", "5-fold", "loso"):
        one, same, other = (assign(BIOVID[name], subjects, labels=labels, seed=seed).split for seed in (4, 4, 5))
        assert one == same != other
