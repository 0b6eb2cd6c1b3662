"""How often does the evaluation see a difference where there is none, how often where there is one, and how large?

Use case: whoever doubts a verdict of `pkdray evaluate` wants to know how often its tests are wrong with so few seeds,
and how often its intervals miss the true difference.

Method: experiments drawn from normal distributions whose truth is known. A seed's luck (deviation .03) is shared by
both methods of a pair, each has a deviation of .01 of its own. "Rounded" scores are those of a test split of 500
samples. A test's rate is the share of experiments in which p is below 5 %; an interval's is the share of those in
which the 95 % interval of the difference holds the true gain (the t interval is the one that is told; the bootstrap's
is beside it in evaluation.json).

Caveats: real scores are not normal. The rates have a standard error of half a point at 2,000 experiments. Of the
bootstrap's p only the side of 5 % on which it lies is computed, which is all that is counted: four times as fast.

Run it:  python -m benchmarks.check_statistics [--experiments 2000]
"""

from __future__ import annotations

import argparse
from unittest import mock

import numpy as np

from pkdray.evaluate import statistics
from pkdray.evaluate.statistics import compare_pairs, pairs_for

PAIRS = (5, 6, 10, 20)
GAINS = (0.0, 0.005, 0.01, 0.02)


COLUMNS = ("Wilcoxon (the verdict)", "bootstrap", "t interval holds the truth", "bootstrap's interval does")


def rates(pairs: int, gain: float, experiments: int, *, rounded: bool) -> list[float]:
    """The shares of experiments that the `COLUMNS` are of."""
    rng = np.random.default_rng([pairs, int(gain * 1e6), rounded])
    found = np.zeros(len(COLUMNS))
    for _ in range(experiments):
        luck = rng.normal(0.7, 0.03, pairs)
        scores = [luck + better + rng.normal(0, 0.01, pairs) for better in (0.0, gain)]
        if rounded:
            scores = [np.round(values * 500) / 500 for values in scores]
        said = compare_pairs(*scores, "max")
        tests = said["tests"]
        seen = [(tests[name]["p"] or 1.0) < 0.05 for name in ("wilcoxon", "bootstrap")]
        found += [*seen, *(_holds(interval, gain) for interval in (said["interval"], tests["bootstrap"]["interval"]))]
    return [float(share) for share in found / experiments]


def _holds(interval: list[float] | None, gain: float) -> bool:
    return interval is not None and interval[0] <= gain <= interval[1]


def main() -> None:
    """Print the tables of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    with mock.patch.object(statistics.optimize, "bisect", lambda _excludes, low, high, **_: (low + high) / 2):
        _print_tables(parser.parse_args().experiments)


def _print_tables(experiments: int) -> None:
    print(f"| pairs | true gain | scores | {' | '.join(COLUMNS)} |\n|{'---|' * (3 + len(COLUMNS))}")
    for pairs in PAIRS:
        for gain in GAINS:
            # With ties scipy lists all signs of up to 13 pairs: a hundred times slower.
            for rounded in (False, True) if gain == 0 and pairs != 10 else (False,):
                shares = rates(pairs, gain, experiments, rounded=rounded)
                kind = "rounded" if rounded else "exact"
                told = " | ".join(f"{100 * share:.1f} %" for share in shares)
                print(f"| {pairs} | {gain:g} | {kind} | {told} |", flush=True)
    needed = pairs_for(0.01 / np.sqrt(2e-4))
    assert needed is not None
    power = rates(needed, 0.01, experiments, rounded=False)[0]
    print(f"\nAt a true gain of .01, {needed} pairs are advised for 80 %; it is then found in {100 * power:.1f} %.")


if __name__ == "__main__":
    main()
