"""The Triton kernel of the transport loss on a real GPU: is it right, and how fast is it?

Use case. Nobody has run the kernel on a GPU while it was written: it was interpreted on a CPU, and compiled. This is
the one command to run when a GPU can be had. It needs torch and Triton; with geomloss there are columns for it too.

Method. Right: the cases of the benchmark beside it, from fixed seeds, for every batch and epsilon. Shown are the worst
relative errors over the cases against a float64 reference, ours and the plain solver's (torch operations on the CPU),
and what 20 repetitions of 64 lanes found: a bit that differs between them is a race between threads. A problem with
NaN has to leave its neighbours as they are. Fast: forward + gradient in y, CUDA events, after a warm-up, the median of
the turns, in microseconds a call (of all lanes). "plain" is the same algorithm as torch operations on the GPU.
"geomloss" is its default (scaling .5) in one call for all lanes; ratios are kernel / geomloss.

Caveats. The float64 reference at a batch of 512 takes most of the run: leave it out with --batch 32 128. The first call
of a size compiles it, some 5 seconds. Bars are those of the CPU: value 1e-3, gradient 1e-2, 5e-2 at epsilon .001.

Run, from the top of the checkout (about 5 minutes):

    python -m benchmarks.check_gpu --out check_gpu.json

Exits with 1 where something is wrong. A dry run without a GPU, slow:

    TRITON_INTERPRET=1 python -m benchmarks.check_gpu --device cpu --batch 16 --k 5 --lanes 1 2 --turns 1
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.transport.cases import CASES, Case, clouds
from benchmarks.transport.reference import divergence
from pkdray.losses import _sinkhorn, _sinkhorn_triton
from pkdray.losses._sinkhorn import Solution

MAX_ITER = 500
REPETITIONS = 20

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Check, time, print both tables, and tell by the exit code whether all is right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 0.1, 0.01, 0.001])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 8, 64, 132])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="JSON file for all that was measured")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU. The docstring of this file has a dry run without one.")
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, Any] = {"environment": environment(device), "right": [], "fast": []}
    print(json.dumps(found["environment"]))
    if importlib.util.find_spec("geomloss") is None:
        print("geomloss is not installed: its columns are left out.")

    for batch in options.batch:
        for epsilon in options.epsilon:
            found["right"].append(is_right(batch, options.k, epsilon, max(2, min(64, max(options.lanes))), device))
    print(table(found["right"]))
    for batch in options.batch:
        for epsilon in options.epsilon:
            found["fast"] += (how_fast(batch, options.k, epsilon, n, options.turns, device) for n in options.lanes)
    print(table(found["fast"]))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    wrong = [row for row in found["right"] if row["verdict"] != "right"]
    print("All is right." if not wrong else f"WRONG: {len(wrong)} of {len(found['right'])} rows.")
    return 1 if wrong else 0


def environment(device: torch.device) -> Row:
    """What the figures hold for."""
    import triton

    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "capability": torch.cuda.get_device_capability(device) if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def fused(x: Tensor, y: Tensor, epsilon: float, *, complete: bool = False) -> Solution:
    """The kernel, as a training calls it."""
    each = torch.full(x.shape[:1], epsilon, device=x.device)
    return _sinkhorn_triton.solve(x, y, each, tol=None, max_iter=MAX_ITER, complete=complete)


def plain(x: Tensor, y: Tensor, epsilon: float, *, complete: bool = False) -> Solution:
    """The same algorithm as torch operations."""
    each = torch.full(x.shape[:1], epsilon, device=x.device)
    return _sinkhorn.solve(x, y, each, tol=None, max_iter=MAX_ITER, complete=complete)


def geomloss(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The default of the authors of the divergence, with its gradient."""
    from geomloss import SamplesLoss

    y = y.detach().requires_grad_()
    value = SamplesLoss("sinkhorn", p=2, blur=math.sqrt(epsilon), backend="tensorized")(x, y)
    return torch.autograd.grad(value.sum(), y)[0]


def is_right(batch: int, k: int, epsilon: float, lanes: int, device: torch.device) -> Row:
    """Errors of one cell, and what is wrong with it."""
    errors: dict[str, list[float]] = {"value": [], "gradient": [], "value_plain": [], "gradient_plain": [], "all": []}
    for case in CASES[:4]:
        x, y = clouds(case, batch, k, 1)
        truth = divergence(x[0], y[0], epsilon)
        ours, cpu = fused(x.to(device), y.to(device), epsilon, complete=True), plain(x, y, epsilon, complete=True)
        for solution, name in ((ours, ""), (cpu, "_plain")):
            errors["value" + name].append(abs(solution.value.item() - truth.value) / abs(truth.value))
            errors["gradient" + name].append(relative(solution.grad_y[0], truth.gradient))
        # The gradient in the other cloud is as good as this one, so the plain solver's will do.
        errors["all"].append(relative(required(ours.grad_x), required(cpu.grad_x)))
    bar = 5e-2 if epsilon < 0.01 else 1e-2
    wrong = []
    if not max(errors["value"]) <= 1e-3:
        wrong.append("value")
    if not max(errors["gradient"]) <= bar:
        wrong.append("gradient")
    if not max(errors["all"]) <= 2 * bar:
        wrong.append("gradient in x")
    x, y = (side.to(device) for side in clouds(CASES[2], batch, k, lanes))
    wrong += [f"race ({times} of {REPETITIONS} repetitions differ)"] if (times := differing(x, y, epsilon)) else []
    wrong += [] if nan_stays_where_it_is(x, y, epsilon) else ["NaN spreads"]
    return {
        "B": batch,
        "k": x.shape[-1],
        "epsilon": epsilon,
        **{name: max(values) for name, values in errors.items()},
        "verdict": "; ".join(wrong) or "right",
    }


def differing(x: Tensor, y: Tensor, epsilon: float) -> int:
    """How many repetitions differ from the first in any bit."""
    first = fused(x, y, epsilon)
    again = (fused(x, y, epsilon) for _ in range(REPETITIONS if x.is_cuda else 1))
    return sum(
        not (torch.equal(one.value, first.value) and torch.equal(one.grad_y, first.grad_y)) for one in again
    )  # fmt: skip


def nan_stays_where_it_is(x: Tensor, y: Tensor, epsilon: float) -> bool:
    """Whether a problem with NaN is NaN, and the others are what they were."""
    expected, spoilt = fused(x, y, epsilon), y.clone()
    spoilt[1, 0, 0] = math.nan
    found = fused(x, spoilt, epsilon)
    others = torch.arange(len(x), device=x.device) != 1
    return bool(found.value[1].isnan()) and torch.equal(found.grad_y[others], expected.grad_y[others])


def how_fast(batch: int, k: int, epsilon: float, lanes: int, turns: int, device: torch.device) -> Row:
    """Times of one cell, over the cases."""
    pairs = [tuple(side.to(device) for side in in_lanes(case, batch, k, lanes)) for case in (CASES[0], CASES[2])]
    iterations = [required(fused(x, y, epsilon, complete=True).iterations).double().mean().item() for x, y in pairs]
    row = {"B": batch, "epsilon": epsilon, "lanes": lanes, "iterations": statistics.mean(iterations)}
    row["kernel us"] = microseconds(lambda x, y: fused(x, y, epsilon), pairs, turns)
    row["us a problem"] = row["kernel us"] / lanes
    row["plain us"] = microseconds(lambda x, y: plain(x, y, epsilon), pairs, max(1, turns // 4))
    if importlib.util.find_spec("geomloss") is not None:
        row["geomloss us"] = microseconds(lambda x, y: geomloss(x, y, epsilon), pairs, max(1, turns // 4))
        row["ratio"] = row["kernel us"] / row["geomloss us"]
    return row


def in_lanes(case: Case, batch: int, k: int, lanes: int) -> tuple[Tensor, Tensor]:
    """Clouds for so many lanes; beyond 16 they repeat, since making them takes longer than solving them."""
    x, y = clouds(case, batch, k, min(lanes, 16))
    turns = math.ceil(lanes / len(x))
    return x.repeat(turns, 1, 1)[:lanes].contiguous(), y.repeat(turns, 1, 1)[:lanes].contiguous()


def microseconds(call: Callable[[Tensor, Tensor], Any], pairs: Iterable[Sequence[Tensor]], turns: int) -> float:
    """Median of a call, over the turns and the pairs."""
    times = []
    for x, y in pairs:
        call(x, y)
        for _ in range(turns):
            if not x.is_cuda:
                start = time.perf_counter()
                call(x, y)
                times.append(1e6 * (time.perf_counter() - start))
                continue
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            call(x, y)
            end.record()
            torch.cuda.synchronize()
            times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times)


def relative(found: Tensor, expected: Tensor) -> float:
    """Error in the Frobenius norm."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def required(field: Tensor | None) -> Tensor:
    """What was asked for."""
    assert field is not None
    return field


def table(rows: Sequence[Row]) -> str:
    """A table for a person."""
    head = list(rows[0])
    lines = [[f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in head] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, ["-" * width for width in widths], *lines)
    )


if __name__ == "__main__":
    sys.exit(main())
