"""The annotators' reaction time: estimated on train sequences, taken out of the gold standard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pkdray.data.faults import some
from pkdray.data.media.biosignals import check_rate
from pkdray.errors import DatasetError


@dataclass(frozen=True)
class DelayEstimate:
    """The delay that fits best, and what it was chosen from.

    Args:
        delay_s: seconds by which the gold standard lags.
        scores: the mean score of every delay tried, by seconds.
        score: ``ccc`` or ``correlation``.
        sequences: the train sequences that it was estimated on.
    """

    delay_s: float
    scores: Mapping[float, float]
    score: str
    sequences: tuple[str, ...]

    @property
    def at_limit(self) -> bool:
        """Whether the largest delay tried is the best: the true one may lie beyond."""
        return self.delay_s == max(self.scores) and len(self.scores) > 1


def estimate_delay(
    signals: Mapping[str, np.ndarray],
    gold: Mapping[str, np.ndarray],
    *,
    split_of: Mapping[str, str],
    rate_hz: float = 25.0,
    max_s: float = 8.0,
    step_s: float = 0.4,
    score: Literal["ccc", "correlation"] = "ccc",
) -> DelayEstimate:
    """Find the delay d that maximises the mean over TRAIN sequences of score(signal[t], gold[t + d]).

    Every delay is scored on the same frames of the signal, the first T - max_s * rate_hz, so that the overlap that
    shrinks with d does not decide. Of equal scores the smallest delay wins.

    A delay tuned on the sequences that are reported would flatter the result. So every sequence has to come with its
    split, and one that is not ``train`` is refused rather than skipped.

    Args:
        signals: by sequence, what the gold standard should follow: predictions (``ccc``), or any signal (then
            ``correlation``): [T] or [T, n].
        gold: by sequence, the gold standard, of the same shape; a score is the mean over the n targets. Sequences that
            ``signals`` lacks are never looked at.
        split_of: by sequence, ``train``, ``val`` or ``test``; more sequences may be in it.
        rate_hz: frames a second of both: 25 in RECOLA.
        max_s: the largest delay tried, seconds.
        step_s: from one delay to the next, seconds; a delay is rounded to whole frames.
        score: ``ccc`` is the concordance correlation coefficient 2 cov / (var + var + (mean - mean)^2); ``correlation``
            is Pearson's, for signals on another scale. Both are 0 where a side is constant.

    Returns:
        The delay, for ``shift_back``, and the scores.

    Raises:
        DatasetError: a sequence is not of the train split, has no gold standard or none of the same shape, is not
            longer than ``max_s``, or is not finite; no sequences; no delay is better than another; the grid is none.

    Example:
        >>> walk = np.cumsum(np.random.default_rng(0).normal(size=1000))
        >>> late = np.concatenate([np.full(50, walk[0]), walk[:-50]])
        >>> estimate_delay({"train_1": walk}, {"train_1": late}, split_of={"train_1": "train"}).delay_s
        2.0
    """
    shifts = _grid(rate_hz, max_s, step_s)
    judge = {"ccc": _ccc, "correlation": _correlation}.get(score)
    if judge is None:
        raise DatasetError(f"The score is {score!r}.", cure="Choose 'ccc' or 'correlation'.")
    names = _train_only(signals, gold, split_of)
    longest = max(shifts.values())
    totals = dict.fromkeys(shifts, 0.0)
    for name in names:
        signal, target = _pair(name, signals[name], gold[name], longest, rate_hz)
        length = len(signal) - longest
        for delay, shift in shifts.items():
            totals[delay] += judge(signal[:length], target[shift : shift + length])
    scores = {delay: total / len(names) for delay, total in totals.items()}
    if len(scores) > 1 and max(scores.values()) - min(scores.values()) < 1e-12:
        raise DatasetError(
            f"Every delay scores {next(iter(scores.values())):.3g}: the signals or the gold standard of {some(names)} "
            "are constant.",
            cure="Give signals that vary with the gold standard, such as the predictions of a trained model.",
        )
    best = max(scores, key=lambda delay: (scores[delay], -delay))
    return DelayEstimate(best, scores, score, tuple(names))


def shift_back(gold: np.ndarray, delay_s: float, rate_hz: float) -> np.ndarray:
    """Take the annotators' delay out of a gold standard: frame t gets what was annotated at t + delay.

    The last round(delay * rate) frames, whose annotation would lie beyond the end, repeat the last one; leave them out
    where only true annotations may count.

    Args:
        gold: [T] or [T, n].
        delay_s: seconds, 0 or more, rounded to whole frames.
        rate_hz: frames a second.

    Returns:
        A new array of the same shape and type.

    Raises:
        DatasetError: the delay is negative or not finite, or as long as the sequence.

    Example:
        >>> shift_back(np.array([1, 2, 3, 4]), 0.08, 25).tolist()
        [3, 4, 4, 4]
    """
    check_rate(rate_hz)
    gold = np.asarray(gold)
    if not (math.isfinite(delay_s) and delay_s >= 0):
        raise DatasetError(f"The delay is {delay_s!r} s.", cure="Give a delay of 0 s or more.")
    shift = round(delay_s * rate_hz)
    if gold.ndim == 0 or shift >= len(gold):
        raise DatasetError(
            f"A gold standard of {len(gold) if gold.ndim else 0} frames cannot be shifted back by {shift} "
            f"({delay_s:g} s at {rate_hz:g} Hz).",
            cure="Check the delay's unit (seconds) and the rate.",
        )
    return np.concatenate([gold[shift:], np.repeat(gold[-1:], shift, axis=0)])


def _grid(rate_hz: float, max_s: float, step_s: float) -> dict[float, int]:
    """The frames of every delay tried, by its seconds."""
    check_rate(rate_hz)
    if not (math.isfinite(max_s) and math.isfinite(step_s) and max_s >= 0 and step_s * rate_hz >= 1):
        raise DatasetError(
            f"Delays up to {max_s!r} s in steps of {step_s!r} s are none at {rate_hz:g} Hz.",
            cure=f"Choose max_s >= 0 and a step of at least one frame, {1 / rate_hz:g} s.",
        )
    # 1e-9: 8.0 / 0.4 may come out as 19.999999999999996. Rounded, so that the third delay is 1.2 and not 1.2000000002.
    delays = [round(index * step_s, 9) for index in range(math.floor(max_s / step_s + 1e-9) + 1)]
    return {delay: round(delay * rate_hz) for delay in delays}


def _train_only(
    signals: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray], split_of: Mapping[str, str]
) -> list[str]:
    names = list(signals)
    if not names:
        raise DatasetError("There are no sequences to estimate a delay on.", cure="Give the train sequences.")
    unknown = [name for name in names if name not in split_of]
    if unknown:
        raise DatasetError(
            f"{len(unknown)} sequences have no split: {some(unknown)}.", cure="Name the split of each in split_of."
        )
    other = [f"{name} ({split_of[name]})" for name in names if split_of[name] != "train"]
    if other:
        raise DatasetError(
            f"{len(other)} of {len(names)} sequences are not of the train split: {some(other)}.",
            cure="Estimate the delay on train sequences alone, then shift the gold standard of all splits by it.",
        )
    missing = [name for name in names if name not in gold]
    if missing:
        raise DatasetError(
            f"{len(missing)} sequences have no gold standard: {some(missing)}.", cure="Give one a sequence."
        )
    return names


def _pair(
    name: str, signal: np.ndarray, gold: np.ndarray, longest: int, rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(signal, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise DatasetError(
            f"Sequence '{name}' has a signal of shape {list(a.shape)} and a gold standard of {list(b.shape)}.",
            cure="Give both as [T] or [T, n] at one rate.",
        )
    if len(a) < longest + 2 or not a.size:
        raise DatasetError(
            f"Sequence '{name}' has {len(a)} frames ({len(a) / rate_hz:g} s), too few to try a delay of {longest}.",
            cure="Leave it out or lower max_s.",
        )
    for what, values in (("signal", a), ("gold standard", b)):
        if not np.isfinite(values).all():
            raise DatasetError(
                f"Sequence '{name}' has {int((~np.isfinite(values)).sum())} values in its {what} that are NaN or "
                "infinite.",
                cure="Leave it out, or fill them in.",
            )
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def _moments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    left, right = _centred(a), _centred(b)
    step = a.mean(axis=0) - b.mean(axis=0)
    return (left * right).mean(axis=0), np.square(left).mean(axis=0), np.square(right).mean(axis=0), step


def _centred(values: np.ndarray) -> np.ndarray:
    # The mean of equal numbers may be off by a rounding, and a correlation would make that as large as a signal.
    constant = values.max(axis=0) == values.min(axis=0)
    return np.where(constant, 0.0, values - values.mean(axis=0))


def _ccc(a: np.ndarray, b: np.ndarray) -> float:
    covariance, left, right, step = _moments(a, b)
    return _mean_ratio(2 * covariance, left + right + step**2)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    covariance, left, right, _ = _moments(a, b)
    return _mean_ratio(covariance, np.sqrt(left * right))


def _mean_ratio(over: np.ndarray, under: np.ndarray) -> float:
    return float(np.divide(over, under, out=np.zeros_like(over), where=under > 0).mean())
