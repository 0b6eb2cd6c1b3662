"""What is said of a comparison: who is credited, which way is better, and what would settle it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pkdray.data.dataset import Dataset
from pkdray.evaluate.rows import compare_all
from pkdray.evaluate.statistics import compare_pairs, correct_for_several
from pkdray.evaluate.wording import change, notes, sentence
from pkdray.training.plan import Plan

SIX = [0.06, 0.05, 0.07, 0.04, 0.03, 0.08]


def row(
    method: str, values: list[float], tnet: str = "none", folds: tuple[int | None, ...] = (None,)
) -> dict[str, Any]:
    """A method's row of an evaluation, as far as sentences and notes look at it."""
    seeds = len(values) // len(folds)
    places = [(fold, seed) for fold in folds for seed in range(seeds)]
    pairs = [{"fold": fold, "seed": seed, "score": value} for (fold, seed), value in zip(places, values, strict=True)]
    return {"method": method, "tnet": tnet, "what": "face", "trial": 3, "values": values, "pairs": pairs}


def told(student: dict[str, Any], metric: str = "accuracy", gain: list[float] = SIX, **others: Any) -> str:
    """The first sentence of an evaluation whose student has these gains over its bound."""
    mode = "min" if metric in ("mse", "mae") else "max"
    sign = -1 if mode == "min" else 1
    about = {
        "lower_bound": row("supervised", [0.5] * len(gain)),
        "student": row(student["method"], [0.5 + sign * one for one in gain], student.get("tnet", "none")),
        **others,
    }
    first = compare_all(about, against=list(others), mode=mode, folds=1)[0]
    return sentence(first, about, metric, folds=1)


@pytest.mark.parametrize(
    ("student", "helped", "hurt"),
    [
        ({"method": "pkd"}, "Distillation helped: ", "Distillation did not help, it hurt: "),
        ({"method": "pkd", "tnet": "frozen"}, "Distillation helped: ", "Distillation did not help, it hurt: "),
        ({"method": "supervised", "tnet": "joint"}, "The T-Net helped: ", "The T-Net did not help, it hurt: "),
        (
            {"method": "supervised"},
            "Tuning alone, without a teacher, helped: ",
            "Tuning alone, without a teacher, did not help, it hurt: ",
        ),
    ],
)
def test_what_is_credited_is_what_the_student_has_and_the_bound_lacks(
    student: dict[str, Any], helped: str, hurt: str
) -> None:
    assert told(student).startswith(helped)
    assert told(student, gain=[-one for one in SIX]).startswith(hurt)


def test_in_a_metric_that_falls_a_gain_is_a_fall() -> None:
    assert told({"method": "pkd"}, "mse").startswith(
        "Distillation helped: mse lower by 0.0550 than the lower bound (95 % 0.0354 to 0.0746 lower, better in 6 of 6"
    )
    worse = told({"method": "pkd"}, "mae", [-one for one in SIX])
    assert worse.startswith(
        "Distillation did not help, it hurt: mae higher by 0.0550 than the lower bound (95 % 0.0746 "
    )
    unsure = told({"method": "pkd"}, "mse", [0.05, -0.04, 0.01, 0.02, -0.03, 0.01])
    assert "mse lower by 0.0033 than the lower bound (95 % 0.0316 higher to 0.0382 lower" in unsure
    assert told({"method": "pkd"}).startswith(
        "Distillation helped: +0.0550 accuracy over the lower bound (95 % +0.0354 to +0.0746, better in 6 of 6"
    )
    assert change(-0.25, "ccc") == "-0.2500"


def test_pairs_that_are_all_ties_are_not_told_to_be_too_few() -> None:
    said = told({"method": "pkd"}, gain=[0.0] * 10)
    assert said.endswith("better in 0 of 10 pairs, equal in 10). No pair differs, so there is nothing to test.")


def test_one_pair_is_told_how_many_the_family_of_comparisons_needs() -> None:
    assert told({"method": "pkd"}, gain=[0.1]).endswith("There is no test of one pair: 6 seeds are the least.")
    several = {name: row(name, [0.45]) for name in ("kl", "pkdot")}
    said = told({"method": "pkd"}, gain=[0.1], **several)
    assert said.endswith("There is no test of one pair: 8 seeds are the least for 5 comparisons.")


def test_equal_gains_are_advised_what_the_test_needs() -> None:
    said = told({"method": "pkd"}, gain=[0.1] * 3)
    assert said.endswith("About 3 more seeds would settle it, if the difference is what it seems.")
    assert "d = " not in said


def test_ties_are_told_and_advice_is_for_the_difference_that_is_seen() -> None:
    """2 won, 3 equal, 1 lost: the sentence must not read as 4 losses, nor a wide interval as a tiny difference."""
    (said,) = correct_for_several([compare_pairs([0.5] * 6, [0.6, 0.6, 0.5, 0.5, 0.5, 0.3], "max")])
    about = {"student": {"method": "pkd", "tnet": "none"}}

    def told(folds: int, needed: int | None) -> str:
        one = {"method": "student", "against": "lower_bound", "more_seeds": needed, **said, "effect_size": 0.01}
        return sentence(one, about, "accuracy", folds=folds)

    assert "better in 2 of 6 pairs, equal in 3" in told(1, None)
    assert told(1, None).endswith("If the difference is what it seems, even 1,000 pairs would hardly settle it.")
    assert told(1, 7).endswith("About 7 more seeds would settle it, if the difference is what it seems.")
    assert "7 more seeds a fold would settle it" in told(2, 7)
    assert "were independent" in told(2, 7)


class TestNotes:
    """What a reader must bear in mind."""

    @pytest.fixture
    def noted(self, small_dataset: Callable[..., Dataset], plan: Callable[..., Plan]) -> Callable[..., str]:
        dataset = small_dataset()

        def say(
            own: int | None,
            folds: tuple[int | None, ...],
            top: int = 1,
            searched: dict[str, tuple[int, int]] | None = None,
            **finalists: int,
        ) -> str:
            methods = {
                "lower_bound": row("supervised", [0.5, 0.6] * len(folds), folds=folds),
                "student": row("pkd", [0.6, 0.7] * len(folds), folds=folds),
                "kl": row("kl", [0.6, 0.7] * len(folds), folds=folds),
                "teacher": row("", [0.9] * len(folds), folds=folds),
            }
            made = plan(dataset, {"dataset.fold": own} if own is not None else {})
            return "\n".join(
                notes(
                    made,
                    dataset,
                    methods,
                    folds=folds,
                    same=[],
                    times=1,
                    top=top,
                    finalists=finalists,
                    searched=searched or {},
                )
            )

        return say

    @pytest.mark.parametrize(
        ("own", "folds", "said"),
        [
            (None, (2,), "searched on the split column. Subjects who are tested in fold 2 took part in that choice"),
            (0, (2,), "searched on fold 0. Subjects who are tested in fold 2 took part in that choice"),
            (0, (0, 1), "searched on fold 0. Subjects who are tested in fold 1 took part in that choice"),
            (0, (0, 1, 2), "searched on fold 0. Subjects who are tested in other folds took part in that choice"),
        ],
    )
    def test_another_fold_than_the_searched_one_flatters_though_it_be_the_only_one(
        self, noted: Callable[..., str], own: int | None, folds: tuple[int, ...], said: str
    ) -> None:
        assert said in noted(own, folds)
        assert ("The student in best/ has no test scores" in noted(own, folds)) == (own not in folds)

    @pytest.mark.parametrize(("searched", "said"), [((1, 18), True), ((4, 5), True), ((5, 18), False), ((2, 2), False)])
    def test_a_method_whose_trials_were_nearly_all_stopped_is_not_judged_by_the_rest_in_silence(
        self, noted: Callable[..., str], searched: tuple[int, int], said: bool
    ) -> None:
        complete, ended = searched
        told = noted(None, (None,), searched={"kl": searched, "absent": (1, 9)})
        trials = "trial" if complete == 1 else "trials"
        assert (f"kl is judged by {complete} complete {trials} of {ended} (" in told) == said
        assert "absent" not in told

    @pytest.mark.parametrize(("own", "folds"), [(None, (None,)), (1, (1,))])
    def test_the_searched_one_alone_does_not(
        self, noted: Callable[..., str], own: int | None, folds: tuple[int | None, ...]
    ) -> None:
        assert "took part in that choice" not in noted(own, folds)
        assert "no test scores" not in noted(own, folds)

    def test_fewer_trials_than_top_are_told(self, noted: Callable[..., str]) -> None:
        said = noted(None, (None,), 5, student=5, kl=2, pkd=1)
        assert "among the best 5 trials; fewer different ones are complete: 2 of kl, 1 of pkd." in said
        assert "fewer different ones" not in noted(None, (None,), 2, student=2, kl=2)
