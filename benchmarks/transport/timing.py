"""One cell of the grid: who errs by how much, and who takes how long, in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.transport.cases import Case
from benchmarks.transport.competitors import BASE, Competitor, Setting, value_and_gradient
from benchmarks.transport.reference import Truth

VALUE_BAR, GRADIENT_BAR = 1e-3, 1e-2
LOOPED_LANES = 2
"""A loop over the lanes is run over these few: a problem costs the same in a longer one."""

CHECKED_LANES = 2
"""Errors are taken in the first lanes, since every one needs its own reference."""

CAP = 1e6
"""Stands for an error that is not a number, which JSON cannot hold."""

Clouds = Mapping[Case, tuple[Tensor, Tensor]]
Truths = Mapping[Case, list[Truth]]


@dataclass
class Entrant:
    """A competitor with its setting, the lanes it is given, and what was measured of it."""

    name: str
    competitor: Competitor
    setting: Setting
    lanes: int
    loop: bool
    note: str = ""
    spent: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def run(self, x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Forward and backward of its lanes."""

        def solve(a: Tensor, b: Tensor) -> Tensor:
            return self.competitor.solve(a, b, epsilon, self.setting)

        if not self.loop:
            return value_and_gradient(solve, x[: self.lanes], y[: self.lanes])
        results = [value_and_gradient(solve, x[i : i + 1], y[i : i + 1]) for i in range(self.lanes)]
        return torch.cat([value for value, _ in results]), torch.cat([gradient for _, gradient in results])

    def seconds(self, case: str) -> list[float]:
        """Of one problem: the calls in turns, or the first call of those who are too slow to have a turn."""
        return self.times.get(case) or [self.first[case]]

    def meets_bar(self) -> bool:
        """Whether every case so far has a small enough error."""
        return all(value <= VALUE_BAR and gradient <= GRADIENT_BAR for value, gradient in self.errors.values())


def run_cell(
    competitors: Iterable[Competitor],
    clouds: Clouds,
    truths: Truths,
    *,
    epsilon: float,
    lanes: int,
    repeats: int,
    limit: float,
    before: Mapping[str, Entrant],
) -> list[Entrant]:
    """Let everybody solve every case once, for the errors, then in turns, for the times.

    Args:
        competitors: who takes part.
        clouds: both sides of every case, ``[>= lanes, B, k]``.
        truths: references of the first lanes of every case.
        epsilon: of all cases.
        lanes: problems at once.
        repeats: turns, at most.
        limit: seconds after which an entrant has no further call in this cell (it has at least one).
        before: by name, who ran with the same clouds and fewer lanes: ladders are climbed on from there, and nobody is
            given so many lanes that a call would take much longer than the limit.
    """
    entrants = []
    if lanes > 1:
        one = Entrant("geomloss-one", BASE, BASE.settings[0], 1, False)
        entrants.append(_first_calls(one, clouds, truths, epsilon, limit))
    batch = next(iter(clouds.values()))[0].shape[-2]
    for competitor in competitors:
        if competitor.largest and batch > competitor.largest:
            continue
        earlier = before.get(competitor.name)
        if earlier and max(earlier.first.values()) > limit:
            kept = {str(case) for case in clouds} & earlier.first.keys()
            if kept:
                entrants.append(_taken_over(earlier, kept))
                continue
        mode = _faster_mode(competitor, clouds, epsilon, _affordable(lanes, earlier, limit))
        settings = competitor.settings[competitor.settings.index(earlier.setting) if earlier else 0 :]
        entrants.append(
            _climb(
                [Entrant(competitor.name, competitor, setting, *mode) for setting in settings],
                clouds, truths, epsilon, limit,
            )
        )  # fmt: skip
    for turn in range(repeats):
        for case, (x, y) in clouds.items():
            # Nobody always follows the same one.
            for entrant in entrants[turn % len(entrants) :] + entrants[: turn % len(entrants)]:
                if entrant.spent < limit * entrant.competitor.patience:
                    _, seconds = timed(lambda e=entrant, x=x, y=y: e.run(x, y, epsilon), x.device)
                    entrant.spent += seconds
                    entrant.times.setdefault(str(case), []).append(seconds / entrant.lanes)
    return entrants


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What a call returns and the seconds it took, by the device's own clock where it has one."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = call()
        return result, time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    result = call()
    end.record()
    torch.cuda.synchronize(device)
    return result, begin.elapsed_time(end) / 1e3


def relative_errors(value: Tensor, gradient: Tensor, truths: list[Truth]) -> tuple[float, float]:
    """Of value and gradient (Frobenius norm), the worst over the lanes that have a reference."""
    values, gradients = [], []
    for v, g, truth in zip(value.double().cpu(), gradient.double().cpu(), truths, strict=False):
        values.append(abs(float(v) - truth.value) / abs(truth.value))
        gradients.append(float((g - truth.gradient).norm() / truth.gradient.norm()))
    return _worst(values), _worst(gradients)


def ratio(one: Entrant, other: Entrant) -> float | None:
    """Time of a problem to that of another's: minima of the turns, median over the cases that both have."""
    common = one.first.keys() & other.first.keys()
    ratios = [min(one.seconds(case)) / min(other.seconds(case)) for case in common]
    return statistics.median(ratios) if ratios else None


def summarised(entrant: Entrant, base: Entrant | None) -> dict[str, Any]:
    """One row of the results."""
    cases = {
        case: {"ms": [1e3 * s for s in entrant.seconds(case)], "value_error": value, "gradient_error": gradient}
        for case, (value, gradient) in entrant.errors.items()
    }
    return {
        "competitor": entrant.name,
        "setting": entrant.setting,
        "mode": f"loop over {entrant.lanes}" if entrant.loop else f"batch of {entrant.lanes}",
        "ms_min": statistics.median(min(case["ms"]) for case in cases.values()),
        "ms_median": statistics.median(statistics.median(case["ms"]) for case in cases.values()),
        "ratio": ratio(entrant, base) if base else None,
        "value_error": max(case["value_error"] for case in cases.values()),
        "gradient_error": max(case["gradient_error"] for case in cases.values()),
        "meets_bar": entrant.meets_bar(),
        "note": entrant.note,
        "cases": cases,
    }


def _first_calls(
    entrant: Entrant, clouds: Clouds, truths: Truths, epsilon: float, limit: float, *, stop_at_miss: bool = False
) -> Entrant:
    """Every case once, for the errors."""
    for case, (x, y) in clouds.items():
        (value, gradient), seconds = timed(lambda x=x, y=y: entrant.run(x, y, epsilon), x.device)
        entrant.spent += seconds
        entrant.first[str(case)] = seconds / entrant.lanes
        entrant.errors[str(case)] = relative_errors(value, gradient, truths[case])
        if stop_at_miss and not entrant.meets_bar():
            break
        if entrant.spent > limit * entrant.competitor.patience and len(entrant.first) < len(clouds):
            entrant.note = (
                f"over {limit * entrant.competitor.patience:g} s: {len(entrant.first)} of {len(clouds)} cases"
            )
            break
    return entrant


def _climb(ladder: list[Entrant], clouds: Clouds, truths: Truths, epsilon: float, limit: float) -> Entrant:
    """The first rung that meets the bar, or the last, or the one on which time ran out."""
    left = 2 * limit
    for rung in ladder[:-1]:
        _first_calls(rung, clouds, truths, epsilon, limit, stop_at_miss=True)
        if rung.meets_bar():
            return rung
        left -= rung.spent
        if left < 0:
            rung.note = f"ladder left here, {len(rung.first)} of {len(clouds)} cases"
            return rung
    return _first_calls(ladder[-1], clouds, truths, epsilon, limit)


def _taken_over(earlier: Entrant, kept: set[str]) -> Entrant:
    """An entrant whose problems take so long each that they are not solved again with more lanes."""
    note = f"as with fewer lanes; {len(kept)} case{'s' * (len(kept) > 1)}"
    parts = {
        name: {case: value for case, value in getattr(earlier, name).items() if case in kept}
        for name in ("first", "times", "errors")
    }
    return replace(earlier, note=note, spent=math.inf, **parts)


def _affordable(lanes: int, earlier: Entrant | None, limit: float) -> int:
    return lanes if not earlier else max(1, min(lanes, int(2 * limit / max(earlier.first.values()))))


def _faster_mode(competitor: Competitor, clouds: Clouds, epsilon: float, lanes: int) -> tuple[int, bool]:
    """How many lanes to give and whether to loop: where a competitor can do both, what is faster in the first case."""
    together, looped = (lanes, False), (min(lanes, LOOPED_LANES), True)
    if not competitor.looped or not competitor.batched or lanes == 1:
        return together if competitor.batched else looped
    x, y = next(iter(clouds.values()))
    seconds = {}
    for mode in (together, looped):
        entrant = Entrant(competitor.name, competitor, competitor.settings[0], *mode)
        seconds[mode] = timed(lambda e=entrant: e.run(x, y, epsilon), x.device)[1] / mode[0]
    return min(seconds, key=lambda mode: seconds[mode])


def _worst(errors: list[float]) -> float:
    return max(min(error, CAP) if math.isfinite(error) else CAP for error in errors)
