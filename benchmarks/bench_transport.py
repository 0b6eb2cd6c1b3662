"""Time and error of the transport loss, ours against geomloss and POT.

Use case. pkdray minimises a debiased Sinkhorn divergence between the anchored similarity rows of teacher and student in
every training step, for one trial or for many trials stacked as lanes. Timed is forward + backward, the gradient in
the student's rows alone: cost |x - y|^2 / 2, epsilon = blur^2, uniform weights, float32.

Method. Cells of batch B, anchors k, epsilon and lanes. The cases of a cell are moments of a training (late, mid, early,
random, tight classes with a few samples in the wrong one) with either order of the anchors, from fixed seeds. Everybody
first solves every case once; that call gives the relative errors of value and gradient (Frobenius norm) against a
float64 reference whose marginals are right to 1e-10. Then they run in turns, one call each. A time is the minimum (and
the median) over the turns and the median over the cases, per problem; an error is the worst over the cases. The bar:
value error <= 1e-3, gradient error <= 1e-2.
"ratio" is the time of a problem to ONE call of geomloss as its manual has it (scaling .5, one lane) in the same cell.
"-tuned" is the first setting of a ladder that meets the bar in every case it was given time for (geomloss: scaling;
POT's batched solver: tolerance).

Caveats. One CPU thread. Read the ratios, from one run, not the milliseconds: they move with the machine, and other
work on it adds noise. Whoever has spent --limit seconds in a cell (ours and geomloss: three times that) has no further
call in it. The note says how many cases it got to ("met" speaks of those alone), and those too slow for a turn are
timed by their first call. Ratios use only the cases that both have; so compare ratios, not milliseconds, where a note
counts cases. With more than one lane, who cannot batch is looped over 2 lanes and scaled (geomloss: batch or loop,
whichever is faster), who would take long is given fewer lanes or keeps its figures from the cell before, half the cases
are run, and errors are taken in the first 2 lanes. k is clamped to B - 1. POT has no divergence of these three terms:
they are composed by hand. POT's autodiff is left out above B = 256 (memory).

Rerun, from the top of the checkout (quick: under a minute; full: about 20 minutes):

    .venv/bin/python -m benchmarks.bench_transport --quick
    .venv/bin/python -m benchmarks.bench_transport --out results.json --markdown results.md
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geomloss
import ot
import torch

from benchmarks.transport.cases import CASES, clouds
from benchmarks.transport.competitors import BASE, COMPETITORS, Competitor
from benchmarks.transport.reference import Truth, divergence
from benchmarks.transport.report import aims, aims_table, results_table, tuned_table
from benchmarks.transport.timing import CHECKED_LANES, Entrant, run_cell, summarised

FULL = {
    "batch": [32, 128, 512], "k": [8, 30, 64], "epsilon": [1.0, 0.1, 0.01, 0.001], "lanes": [1, 8, 64],
    "repeats": 7, "limit": 1.2,
}  # fmt: skip
QUICK = {"batch": [32, 128], "k": [30], "epsilon": [0.1, 0.01], "lanes": [1, 8], "repeats": 5, "limit": 0.7}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the grid, print the tables, and return what --out writes."""
    options = parsed(argv)
    torch.set_num_threads(1)
    start = time.perf_counter()
    results: dict[str, Any] = {"meta": environment(options), "rows": [], "aims": []}
    with warnings.catch_warnings():
        # Who does not converge in time says so; the errors say it better.
        warnings.filterwarnings("ignore", message="Sinkhorn did not converge")
        for rows in run(options):
            results["rows"] += rows
            results["aims"] = aims(results["rows"])
            results["meta"]["seconds"] = round(time.perf_counter() - start, 1)
            # After every cell, so that a run that is stopped leaves what it has.
            if options.out:
                options.out.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")
    tables = "\n\n".join(
        [
            results_table(results["rows"]),
            "Against the aims (time: ratio to one call of geomloss):",
            aims_table(results["aims"]),
            "How many times longer than ours (k 30, one lane), at which setting and gradient error:",
            tuned_table(results["rows"]),
        ]
    )
    print(tables)
    if options.markdown:
        options.markdown.write_text(tables + "\n", encoding="utf-8")
    return results


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the grid's defaults filled in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small grid, under a minute")
    for name, kind in (("batch", int), ("k", int), ("epsilon", float), ("lanes", int)):
        parser.add_argument(f"--{name}", type=kind, nargs="+", help=f"default {FULL[name]}, quick {QUICK[name]}")
    parser.add_argument("--repeats", type=int, help="turns in a cell, at most")
    parser.add_argument("--limit", type=float, help="seconds that a competitor may spend in a cell")
    parser.add_argument("--only", type=lambda text: text.split(","), help="competitors, such as ours,geomloss")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="JSON file for all that was measured")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    options = parser.parse_args(argv)
    for name, default in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    known = [competitor.name for competitor in COMPETITORS]
    for name in options.only or []:
        if name not in known:
            parser.error(f"--only: {name} is not a competitor. Choose from {', '.join(known)}.")
    return options


def run(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The rows of one cell after the other."""
    device = torch.device(options.device)
    competitors = [c for c in COMPETITORS if not options.only or c.name in options.only or c is BASE]
    warm_up(competitors, device)
    cells = len(options.batch) * len(options.k) * len(options.epsilon) * len(options.lanes)
    done = 0
    for batch in options.batch:
        for k in options.k:
            # With many lanes half of the cases are run, and the others need one lane only.
            most = max(options.lanes)
            both = {case: clouds(case, batch, k, most if case in CASES[:4] else 1) for case in CASES}
            for epsilon in options.epsilon:
                truths: dict[Any, list[Truth]] = {case: [] for case in CASES}
                before: dict[str, Entrant] = {}
                for lanes in options.lanes:
                    start = time.perf_counter()
                    cases = CASES if lanes == 1 else CASES[:4]
                    for case in cases:
                        for lane in range(len(truths[case]), min(lanes, CHECKED_LANES)):
                            truths[case].append(divergence(both[case][0][lane], both[case][1][lane], epsilon))
                    entrants = run_cell(
                        competitors,
                        {case: (both[case][0][:lanes].to(device), both[case][1][:lanes].to(device)) for case in cases},
                        truths,
                        epsilon=epsilon,
                        lanes=lanes,
                        repeats=options.repeats,
                        limit=options.limit,
                        before=before,
                    )
                    before = {entrant.name: entrant for entrant in entrants}
                    base = next(e for e in entrants if e.name == (BASE.name if lanes == 1 else "geomloss-one"))
                    cell = {
                        "batch": batch,
                        "k": k,
                        "epsilon": epsilon,
                        "lanes": lanes,
                        "reference_residual": max(truth.residual for case in cases for truth in truths[case]),
                    }
                    done += 1
                    seconds = time.perf_counter() - start
                    print(f"{done}/{cells}: B {batch}, k {k}, epsilon {epsilon:g}, lanes {lanes}: {seconds:.1f} s",
                          file=sys.stderr)  # fmt: skip
                    yield [cell | summarised(entrant, base) for entrant in entrants]


def warm_up(competitors: Sequence[Competitor], device: torch.device) -> None:
    """Lazy imports and first allocations, before the clock runs."""
    x, y = (side.to(device) for side in clouds(CASES[2], 8, 3, 1))
    for competitor in competitors:
        competitor.solve(x, y.requires_grad_(), 1.0, competitor.settings[0]).sum().backward()


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures hold for."""
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor()
    return {
        "command": " ".join(sys.argv),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "device": device or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "geomloss": geomloss.__version__,
        "pot": ot.__version__,
    }


if __name__ == "__main__":
    main()
