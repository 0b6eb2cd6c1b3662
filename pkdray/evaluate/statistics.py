"""Is one method better than another? Paired over seeds and folds, by scipy's and statsmodels' own tests."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8
"""The chance of a verdict that the advice on further seeds aims at, if the difference is what it seems."""
MOST_PAIRS = 1000
"""Where more pairs than these would be needed, there is no difference worth finding."""
RESAMPLES = 9999
EFFICIENCY = 3 / math.pi
"""Of Wilcoxon's test against the t-test under normality (Hodges and Lehmann 1956): .955."""

Verdict: TypeAlias = Literal["helped", "hurt", "not enough evidence"]


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (ddof 1) and 95 % t interval of the mean; None where there is no spread to tell.

    Example:
        >>> describe([0.70, 0.72, 0.74])["interval"]
        [0.670317..., 0.769682...]
    """
    several = len(values) > 1
    interval = None
    if several and np.ptp(values) > 0:
        low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        interval = [float(low), float(high)]
    return {
        "mean": float(np.mean(values)) if values else None,
        "std": float(np.std(values, ddof=1)) if several else None,
        "interval": interval,
    }


def compare_pairs(reference: Sequence[float], method: Sequence[float], mode: str) -> dict[str, Any]:
    """Is ``method`` better than ``reference``? One comparison, without correction for others.

    * ``difference``: the mean gain, positive is better; ``interval``: its 95 % t interval, as that of a method's mean
    * ``tests``: p of Wilcoxon's signed-rank test (exact for up to 50 pairs, with ties for up to 13) and of a paired
      bootstrap of the mean; two-sided, with ``p_holm`` equal to p until `correct_for_several` sees the others. The
      bootstrap has its own ``interval`` (BCa, 95 %), and its p is the level at which that interval just touches 0
    * ``effect_size``: Cohen's d of the paired differences (mean / standard deviation); None where they are all equal
    * ``wins`` and ``ties`` among the ``pairs``

    ``better`` beside Wilcoxon's p says whether the ranks speak for the method; where the mean difference has the other
    sign (many small gains and one collapse), there is no verdict.

    The verdict is Wilcoxon's: with five or ten pairs the bootstrap finds differences too easily, and its interval
    covers the truth too rarely (docs/results.md has the measured rates), so it is a second opinion.

    Args:
        reference: the other method's test scores, one a pair of seed and fold.
        method: the method's, for the same pairs.
        mode: ``max`` or ``min``, of the metric.

    Returns:
        Plain data. Without two pairs, or where all of them are ties, there is no test and the p values are None; the
        bootstrap also needs three pairs, and intervals need gains that differ.

    Raises:
        ValueError: the lengths differ, or there is no pair.

    Example:
        >>> said = compare_pairs([0.70, 0.72, 0.71, 0.69, 0.70, 0.73], [0.76, 0.77, 0.78, 0.74, 0.77, 0.76], "max")
        >>> said["verdict"], said["tests"]["wilcoxon"]["p"]
        ('helped', 0.03125)
    """
    if len(reference) != len(method) or not len(method):
        raise ValueError(f"{len(reference)} and {len(method)} scores are no pairs.")
    # Scores are shares or correlations: what differs by less than this is a tie that float arithmetic has blurred.
    gain = np.round((np.asarray(method, float) - np.asarray(reference, float)) * (1 if mode == "max" else -1), 12)
    # Not the deviation itself: that of equal gains is 1e-17 and not 0, as their mean is rounded.
    varied = len(gain) > 1 and np.ptp(gain) > 0
    wilcoxon, better = _wilcoxon(gain)
    bootstrap, resampled = _bootstrap(gain)
    said = {
        "pairs": len(gain),
        "difference": float(gain.mean()),
        "interval": _ends(stats.ttest_1samp(gain, 0).confidence_interval(CONFIDENCE)) if varied else None,
        "effect_size": float(gain.mean() / np.std(gain, ddof=1)) if varied else None,
        "wins": int((gain > 0).sum()),
        "ties": int((gain == 0).sum()),
        "tests": {
            "wilcoxon": {"p": wilcoxon, "p_holm": wilcoxon, "better": better},
            "bootstrap": {"p": bootstrap, "p_holm": bootstrap, "interval": resampled},
        },
    }
    return {**said, "verdict": _verdict(said)}


def correct_for_several(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with Holm's step-down correction over all of them, and the verdict that remains.

    Raises no p above 1, and keeps their order. ``family`` is how many comparisons the correction is for, or will be
    once there are pairs enough: all but those whose pairs are all ties.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure".

    Example:
        >>> one = compare_pairs([0.70, 0.72, 0.71, 0.69, 0.70, 0.73], [0.76, 0.77, 0.78, 0.74, 0.77, 0.76], "max")
        >>> [said["tests"]["wilcoxon"]["p_holm"] for said in correct_for_several([one, one])]
        [0.0625, 0.0625]
    """
    corrected = [{**one, "tests": {name: dict(test) for name, test in one["tests"].items()}} for one in comparisons]
    for name in ("wilcoxon", "bootstrap"):
        tests = [one["tests"][name] for one in corrected if one["tests"][name]["p"] is not None]
        for test, value in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = value
    family = max(1, sum(one["ties"] < one["pairs"] for one in corrected))
    for one in corrected:
        one |= {"family": family, "verdict": _verdict(one)}
    return corrected


def more_seeds(comparison: Mapping[str, Any], folds: int = 1) -> int | None:
    """How many more seeds, on each of so many folds, would settle a comparison of `correct_for_several`.

    None as for `pairs_needed`.

    Example:
        >>> found = compare_pairs([0.70, 0.72, 0.71, 0.70, 0.73], [0.71, 0.725, 0.70, 0.72, 0.735], "max")
        >>> more_seeds(*correct_for_several([found]))
        24
    """
    needed = pairs_needed(comparison, comparison["family"])
    return math.ceil((needed - comparison["pairs"]) / folds) if needed is not None else None


def pairs_needed(comparison: Mapping[str, Any], comparisons: int = 1) -> int | None:
    """How many pairs would give a verdict with 80 % chance, if the difference is what it seems.

    The t-test's number (statsmodels) over the efficiency of Wilcoxon's test, at the level that Bonferroni leaves to
    one of so many ``comparisons``; where all gains are equal, as many as Wilcoxon's test needs at all. None where there
    is a verdict already, where ranks and mean contradict each other, where one pair or nothing but ties leaves the
    difference unknown, or where more than 1,000 would be needed.

    Example:
        >>> pairs_needed(compare_pairs([0.70, 0.72, 0.71, 0.70, 0.73], [0.71, 0.725, 0.70, 0.72, 0.735], "max"))
        29
    """
    if comparison["verdict"] != "not enough evidence" or comparison["difference"] == 0 or contradicts(comparison):
        return None
    effect = comparison["effect_size"]
    if effect is None:
        # Gains that are all equal have an effect size without end; one pair has none.
        return max(fewest_pairs(comparisons), comparison["pairs"] + 1) if comparison["pairs"] > 1 else None
    return pairs_for(abs(effect), comparisons, more_than=comparison["pairs"])


def pairs_for(effect: float, comparisons: int = 1, more_than: int = 0) -> int | None:
    """How many pairs find an effect (Cohen's d of the paired differences) with 80 % chance.

    Example:
        >>> pairs_for(0.71)
        19
    """
    from statsmodels.stats.power import TTestPower

    level, test = (1 - CONFIDENCE) / comparisons, TTestPower()

    def power(pairs: int) -> float:
        # NaN: so far beyond any doubt that the non-central t distribution cannot be computed.
        return float(np.nan_to_num(test.power(effect, pairs * EFFICIENCY, level), nan=1.0))

    # Not the library's own solver, which gives up (NaN) at large effects.
    choices = range(max(fewest_pairs(comparisons), more_than + 1), MOST_PAIRS + 1)
    place = bisect_left(choices, POWER, key=power)
    return choices[place] if place < len(choices) else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of a family of p values, in their order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(list(p_values), method="holm")[1]]


def fewest_pairs(comparisons: int = 1) -> int:
    """How many pairs Wilcoxon's exact test needs to reach 5 % at all, in a family of so many comparisons.

    If the method wins all n pairs, p is 2 / 2^n.

    Example:
        >>> fewest_pairs(), fewest_pairs(4)
        (6, 8)
    """
    return math.ceil(math.log2(2 * comparisons / (1 - CONFIDENCE)))


def contradicts(comparison: Mapping[str, Any]) -> bool:
    """Whether the ranks are sure and the mean has the other sign: many small gains and one collapse."""
    test = comparison["tests"]["wilcoxon"]
    sure = test["p_holm"] is not None and test["p_holm"] < 1 - CONFIDENCE
    return sure and test["better"] != (comparison["difference"] > 0)


def _verdict(one: dict[str, Any]) -> Verdict:
    p = one["tests"]["wilcoxon"]["p_holm"]
    if p is None or p >= 1 - CONFIDENCE or contradicts(one):
        return "not enough evidence"
    return "helped" if one["difference"] > 0 else "hurt"


def _wilcoxon(gain: np.ndarray) -> tuple[float | None, bool | None]:
    """The two-sided p, and whether the ranks speak for the method."""
    if len(gain) < 2 or not gain.any():
        return None, None
    with warnings.catch_warnings():
        # Ties and zeros above 13 pairs: scipy falls back to the normal approximation, and says so.
        warnings.simplefilter("ignore", UserWarning)
        greater, less = (stats.wilcoxon(gain, alternative=side).pvalue for side in ("greater", "less"))
        return float(stats.wilcoxon(gain).pvalue), bool(greater < less)


def _bootstrap(gain: np.ndarray) -> tuple[float | None, list[float] | None]:
    """The p of the mean and its BCa interval: p is the level at which the interval just touches 0.

    So p is below 5 % where the 95 % interval excludes 0, and nowhere else. It is never below 2 / (resamples + 1), more
    than which so many resamples cannot tell.
    """
    if len(gain) < 3 or np.ptp(gain) == 0:
        return None, None
    rng = np.random.default_rng(0)
    found = stats.bootstrap((gain,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa", rng=rng)
    told = _ends(found.confidence_interval)
    if not np.isfinite(told).all():
        return None, None

    def excludes(level: float) -> int:
        again = stats.bootstrap(
            (gain,), np.mean, n_resamples=0, bootstrap_result=found, confidence_level=1 - level, method="BCa"
        )
        low, high = _ends(again.confidence_interval)
        return 1 if low > 0 or high < 0 else -1

    # The interval shrinks as the level rises. Bisection gives no end of its bracket, so it cannot contradict ``told``.
    if told[0] > 0 or told[1] < 0:
        least, usual = 2 / (RESAMPLES + 1), 1 - CONFIDENCE
        p = least if excludes(least) > 0 else optimize.bisect(excludes, least, usual, xtol=1e-5)
    else:
        p = optimize.bisect(excludes, 1 - CONFIDENCE, 1.0, xtol=1e-5) if excludes(1.0) > 0 else 1.0
    return float(p), told


def _ends(interval: Any) -> list[float]:
    return [float(interval.low), float(interval.high)]
