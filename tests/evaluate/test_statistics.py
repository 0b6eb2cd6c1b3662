"""The statistics against cases with known answers, and against what they must do by chance alone."""

from __future__ import annotations

import gc
import json
from itertools import product

import numpy as np
import pytest
from scipy import stats

from pkdray.evaluate import statistics
from pkdray.evaluate.statistics import (
    compare_pairs,
    correct_for_several,
    describe,
    fewest_pairs,
    holm,
    more_seeds,
    pairs_needed,
)
from pkdray.evaluate.wording import sentence


def exact_signed_rank(gain: np.ndarray) -> float:
    """Wilcoxon's two-sided p by listing all signs, without scipy: ranks of the sizes, zeros left out."""
    gain = gain[gain != 0]
    sizes = np.abs(gain)
    ranks = np.array([(sizes < size).sum() + ((sizes == size).sum() + 1) / 2 for size in sizes])
    mean = ranks.sum() / 2
    seen = abs(ranks[gain > 0].sum() - mean)
    sums = [np.dot(signs, ranks) for signs in product((0, 1), repeat=len(ranks))]
    return float(np.mean([abs(one - mean) >= seen - 1e-9 for one in sums]))


@pytest.mark.parametrize(
    "gain",
    [
        [0.043, 0.029, 0.026, 0.049, 0.023, -0.011, 0.017],
        [0.004, 0.004, -0.002, 0.006, 0.0, 0.002, 0.008, 0.004, -0.002],
        [0.5, -0.25, 0.125],
    ],
)
def test_wilcoxon_is_the_exact_one_with_ties_and_zeros_too(gain: list[float]) -> None:
    said = compare_pairs(np.zeros(len(gain)), gain, "max")
    assert said["tests"]["wilcoxon"]["p"] == pytest.approx(exact_signed_rank(np.array(gain)))
    assert said["difference"] == pytest.approx(np.mean(gain))
    assert said["effect_size"] == pytest.approx(np.mean(gain) / np.std(gain, ddof=1))
    assert said["wins"] == sum(one > 0 for one in gain)
    assert said["ties"] == sum(one == 0 for one in gain)


def test_equal_accuracies_are_ties_though_floats_differ() -> None:
    """0.1 + 0.2 is not 0.3: scores that print alike are alike."""
    said = compare_pairs([0.1 + 0.2, 0.5, 0.25], [0.3, 0.5, 0.75], "max")
    assert (said["wins"], said["ties"]) == (1, 2)


def test_the_interval_of_a_difference_is_the_t_interval_of_the_mean_gain() -> None:
    gain = np.random.default_rng(3).normal(0.02, 0.05, 7)
    expected = stats.t.interval(0.95, 6, gain.mean(), stats.sem(gain))
    assert compare_pairs(np.zeros(7), gain, "max")["interval"] == pytest.approx(expected)
    assert compare_pairs(gain, np.zeros(7), "min")["interval"] == pytest.approx(expected)


def bca(gain: np.ndarray, level: float) -> tuple[float, float]:
    """The BCa interval by hand, from Efron (1987), of the same resamples."""
    rows = np.random.default_rng(0).integers(0, len(gain), (9999, len(gain)))
    means = np.sort(gain[rows].mean(axis=-1))
    below = ((means < gain.mean()).sum() + (means <= gain.mean()).sum()) / 2 / len(means)
    left_out = np.array([np.delete(gain, place).mean() for place in range(len(gain))])
    slope = left_out.mean() - left_out
    acceleration = (slope**3).sum() / (6 * (slope**2).sum() ** 1.5)
    shift = stats.norm.ppf(below)
    shifted = shift + stats.norm.ppf([level / 2, 1 - level / 2])
    low, high = np.quantile(means, stats.norm.cdf(shift + shifted / (1 - acceleration * shifted)))
    return low, high


class TestBootstrap:
    def test_its_interval_is_bca_and_its_p_the_level_at_which_that_touches_zero(self) -> None:
        gain = np.array([0.031, -0.012, 0.044, 0.027, 0.019, -0.004, 0.052])
        said = compare_pairs(np.zeros(7), gain, "max")["tests"]["bootstrap"]
        assert said["interval"] == pytest.approx(bca(gain, 0.05))
        assert 0.0002 < said["p"] < 0.05
        low, _ = bca(gain, said["p"])
        assert low == pytest.approx(0, abs=2e-4)
        assert bca(gain, said["p"] * 0.8)[0] < 0 < bca(gain, said["p"] * 1.2)[0]

    def test_its_p_is_below_five_percent_where_its_interval_excludes_zero_and_nowhere_else(self) -> None:
        rng, seen = np.random.default_rng(11), set()
        for place in range(80):
            pairs = int(rng.integers(3, 8))
            gain = rng.normal(rng.choice([-0.01, 0.0, 0.007]), 0.01, pairs)
            # Scores of a small test split: many ties, and means of resamples that are exactly 0.
            gain = np.round(gain, 2) if place % 2 else gain
            said = compare_pairs(np.zeros(pairs), gain, "max")["tests"]["bootstrap"]
            if said["p"] is None:
                assert np.ptp(gain) == 0
                continue
            low, high = said["interval"]
            excluded = low > 0 or high < 0
            assert (said["p"] < 0.05) == excluded, (gain, said)
            assert 0.0002 <= said["p"] <= 1
            seen.add(excluded)
        assert seen == {True, False}

    def test_what_no_resample_doubts_has_the_least_p_that_so_many_can_tell(self) -> None:
        said = compare_pairs(np.zeros(6), [0.06, 0.05, 0.07, 0.04, 0.03, 0.08], "max")["tests"]["bootstrap"]
        assert said["p"] == 2 / 10_000

    def test_where_the_mean_is_zero_nothing_is_found(self) -> None:
        assert compare_pairs(np.zeros(4), [0.1, -0.1, 0.2, -0.2], "max")["tests"]["bootstrap"]["p"] > 0.9


@pytest.mark.parametrize("size", [0.1, 0.035, 1 / 3])
@pytest.mark.parametrize("pairs", [3, 5, 6, 10])
def test_gains_that_are_all_equal_have_no_effect_size_and_need_what_the_test_needs(size: float, pairs: int) -> None:
    """Their deviation is 1e-17 in floats: no d of 5e15, and no "even 1,000 pairs"."""
    lower = np.linspace(0.5, 0.6, pairs)
    said = compare_pairs(lower, lower + size, "max")
    assert said["effect_size"] is None
    assert said["interval"] is None
    json.dumps(said, allow_nan=False)
    (corrected,) = correct_for_several([said])
    assert more_seeds(corrected) == (6 - pairs if pairs < 6 else None)
    assert corrected["verdict"] == ("helped" if pairs >= 6 else "not enough evidence")
    # In a family of nine the test needs nine pairs.
    others = [compare_pairs([0.1, 0.3, 0.2], [0.3, 0.2, 0.1], "max")] * 8
    first = correct_for_several([said, *others])[0]
    assert first["family"] == 9
    assert more_seeds(first) == (9 - pairs if pairs < 9 else None)
    assert more_seeds(first, folds=2) == (-(-(9 - pairs) // 2) if pairs < 9 else None)


def test_pairing_matters() -> None:
    """Seeds differ more than methods do: unpaired this would be nothing, paired it is plain."""
    lower = [0.50, 0.60, 0.70, 0.80, 0.90, 0.40]
    student = [0.510, 0.612, 0.709, 0.811, 0.910, 0.408]
    assert compare_pairs(lower, student, "max")["verdict"] == "helped"
    assert stats.ttest_ind(lower, student).pvalue > 0.9


@pytest.mark.parametrize(
    ("gain", "mode", "verdict"),
    [
        ([0.06, 0.05, 0.07, 0.04, 0.03, 0.08], "max", "helped"),
        ([0.06, 0.05, 0.07, 0.04, 0.03, 0.08], "min", "hurt"),
        ([-0.06, -0.05, -0.07, -0.04, -0.03, -0.08], "max", "hurt"),
        ([-0.06, -0.05, -0.07, -0.04, -0.03, -0.08], "min", "helped"),
        ([0.05, -0.06, 0.01, -0.03, 0.04, 0.02], "max", "not enough evidence"),
        # All five better, and yet 2 / 2^5 is above 5 %.
        ([0.06, 0.05, 0.07, 0.04, 0.03], "max", "not enough evidence"),
    ],
)
def test_the_verdict_follows_the_metrics_direction(gain: list[float], mode: str, verdict: str) -> None:
    said = compare_pairs(np.full(len(gain), 0.7), 0.7 + np.array(gain), mode)
    assert said["verdict"] == verdict
    assert said["difference"] == pytest.approx(np.mean(gain) * (1 if mode == "max" else -1))


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1), ("max", -1)])
def test_ranks_and_mean_that_contradict_each_other_give_no_verdict(mode: str, sign: int) -> None:
    """Nineteen trainings gain a little, one collapses: Wilcoxon is sure of a gain, the mean is a loss."""
    gain = sign * np.array([*np.linspace(0.005, 0.02, 19), -0.9])
    said = compare_pairs(np.full(20, 0.5), 0.5 + gain, mode)
    assert said["tests"]["wilcoxon"]["p"] == pytest.approx(stats.wilcoxon(gain).pvalue)
    assert said["tests"]["wilcoxon"]["p"] < 0.001
    assert said["verdict"] == "not enough evidence"
    (corrected,) = correct_for_several([said])
    assert corrected["verdict"] == "not enough evidence"
    assert pairs_needed(corrected) is None
    told = sentence(
        {"method": "student", "against": "lower_bound", "more_seeds": None, **corrected},
        {"student": {"method": "pkd", "tnet": "none"}},
        "accuracy",
        folds=1,
    )
    assert told.startswith("Not enough evidence")
    assert told.endswith("opposite directions: look at the single trainings.")


@pytest.mark.parametrize(
    ("lower", "student"), [([0.7], [0.9]), ([0.7, 0.5, 0.25], [0.7, 0.5, 0.25]), ([0.5, 0.75], [0.5, 0.75])]
)
def test_without_pairs_that_differ_there_is_no_test(lower: list[float], student: list[float]) -> None:
    said = compare_pairs(lower, student, "max")
    assert said["verdict"] == "not enough evidence"
    assert said["tests"]["wilcoxon"]["p"] is None
    assert said["interval"] is None
    json.dumps(said, allow_nan=False)


def test_scores_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 3 scores are no pairs"):
        compare_pairs([0.1, 0.2], [0.1, 0.2, 0.3], "max")


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_several_comparisons_need_more_evidence_than_one() -> None:
    gain = np.array([0.06, 0.05, 0.07, 0.04, 0.03, 0.08])
    alone = compare_pairs(np.zeros(6), gain, "max")
    nothing = compare_pairs([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], "max")
    first, second, third = correct_for_several([alone, alone, nothing])
    assert alone["verdict"] == "helped"
    assert first["tests"]["wilcoxon"] == {"p": 0.03125, "p_holm": 0.0625, "better": True}
    assert first["verdict"] == second["verdict"] == "not enough evidence"
    assert third["tests"]["wilcoxon"]["p_holm"] is None
    assert alone["tests"]["wilcoxon"]["p_holm"] == 0.03125


@pytest.mark.parametrize("comparisons", [1, 2, 5, 12])
def test_the_fewest_pairs_can_reach_significance_and_one_fewer_cannot(comparisons: int) -> None:
    def least(pairs: int) -> float:
        return comparisons * stats.wilcoxon(np.arange(1, pairs + 1)).pvalue

    enough = fewest_pairs(comparisons)
    assert least(enough) < 0.05 <= least(enough - 1)


def test_describe_is_the_t_interval() -> None:
    said = describe([0.701, 0.722, 0.713])
    # mean .712, deviation .010536, t(2, .975) = 4.3027
    margin = 4.3027 * 0.0105357 / np.sqrt(3)
    assert said["mean"] == pytest.approx(0.712)
    assert said["std"] == pytest.approx(0.0105357, abs=1e-6)
    assert said["interval"] == pytest.approx([0.712 - margin, 0.712 + margin], abs=1e-6)
    assert describe([0.5]) == {"mean": 0.5, "std": None, "interval": None}
    assert describe([0.5, 0.5])["interval"] is None


class TestByChance:
    """What the verdict does over many evaluations whose truth is known."""

    @pytest.fixture(autouse=True)
    def _no_bootstrap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes 15 ms, and no part in the verdict."""
        monkeypatch.setattr(statistics, "_bootstrap", lambda _gain: (None, None))

    @pytest.mark.parametrize("pairs", [6, 10, 17])
    def test_identical_methods_are_not_enough_evidence_at_the_nominal_rate(self, pairs: int) -> None:
        rng = np.random.default_rng(pairs)
        runs = 700
        verdicts = []
        for _ in range(runs):
            seed_luck = rng.normal(0.7, 0.03, pairs)
            lower, student = (seed_luck + rng.normal(0, 0.01, pairs) for _ in range(2))
            verdicts.append(compare_pairs(lower, student, "max")["verdict"])
        wrong = sum(verdict != "not enough evidence" for verdict in verdicts)
        # The level that the exact test attains: the largest of its p values below 5 %.
        sums = np.arange(pairs * (pairs + 1) // 2 + 1)
        counts = np.zeros(len(sums))
        counts[0] = 1
        for rank in range(1, pairs + 1):
            counts[rank:] = counts[rank:] + counts[:-rank]
        tail = 2 * np.cumsum(counts) / 2**pairs
        level = tail[tail < 0.05].max()
        assert 0.03 <= level < 0.05
        low, high = stats.binom.interval(0.999, runs, level)
        assert low <= wrong <= high
        helped = verdicts.count("helped")
        assert stats.binomtest(helped, wrong, 0.5).pvalue > 0.001

    def test_a_family_of_identical_methods_finds_anything_in_five_percent_at_most(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # statsmodels collects garbage at every correction, which is a tenth of a second beside torch.
        monkeypatch.setattr(gc, "collect", lambda: 0)
        rng = np.random.default_rng(1)
        runs, wrong, uncorrected = 300, 0, 0
        for _ in range(runs):
            family = [compare_pairs(*rng.normal(0.7, 0.02, (2, 9)), "max") for _ in range(6)]
            wrong += any(one["verdict"] != "not enough evidence" for one in correct_for_several(family))
            uncorrected += any(one["verdict"] != "not enough evidence" for one in family)
        assert wrong <= stats.binom.ppf(0.999, runs, 0.05) < uncorrected

    def test_the_seeds_that_are_advised_settle_it_with_the_promised_chance(self) -> None:
        rng = np.random.default_rng(2)
        # Standardised, so that the observed effect size is the true one: .9
        gain = rng.normal(size=7)
        gain = 0.9 + (gain - gain.mean()) / gain.std(ddof=1)
        said = compare_pairs(np.zeros(7), gain, "max") | {"verdict": "not enough evidence"}
        needed = pairs_needed(said, comparisons=3)
        assert needed > 7
        found = np.mean([stats.wilcoxon(rng.normal(0.9, 1, needed)).pvalue < 0.05 / 3 for _ in range(1500)])
        assert 0.75 < found < 0.87

    @pytest.mark.parametrize("effect", [1.7, 6.0, 40.0, 900.0])
    def test_a_large_effect_needs_what_the_test_needs_at_least(self, effect: float) -> None:
        untested = {"wilcoxon": {"p_holm": None}}
        said = {
            "pairs": 3,
            "difference": 0.1,
            "effect_size": effect,
            "verdict": "not enough evidence",
            "tests": untested,
        }
        assert 6 <= pairs_needed(said) <= 7
        assert pairs_needed(said | {"pairs": 8}) == 9

    def test_no_number_of_seeds_is_advised_where_there_is_nothing_to_find(self) -> None:
        gain = np.array([0.01, -0.01, 0.02, -0.02, 0.001])
        assert pairs_needed(compare_pairs(np.zeros(5), gain, "max")) is None

    def test_the_interval_of_a_difference_covers_the_truth_in_95_percent(self) -> None:
        """That of the bootstrap does in 86 % at 6 pairs and 90 % at 10 (docs/results.md)."""
        rng, runs = np.random.default_rng(4), 700
        for pairs in (6, 10):
            gains = rng.normal(0.01, 0.014, (runs, pairs))
            ends = [compare_pairs(np.zeros(pairs), gain, "max")["interval"] for gain in gains]
            covered = sum(low <= 0.01 <= high for low, high in ends)
            least, most = stats.binom.interval(0.999, runs, 0.95)
            assert least <= covered <= most
