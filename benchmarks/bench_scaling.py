"""What a trial, a report, a node and 10,000 trials cost the driver of a sweep.

Use case. A sweep is driven by one process: it proposes, writes down, judges and shows. Its trials may be 800 at once on
100 nodes of 8 GPUs, and 10,000 in all. docs/scaling.md has what follows from these numbers.

Method. ledger: studies of --sizes trials (100 through the ledger, the others copied from them in SQLite, with other
values), in memory (--folder) so that the disk does not count; medians of --repeats. driver: sweeps on a local Ray whose
trials report and train nothing, so that what is left is the driver's; a report's cost is the difference between a
sweep of talkative trials and one of short ones. nodes: ray.cluster_utils.Cluster, all nodes on this machine.

Caveats. CPU seconds are of the driver's process, its threads included, and are what to compare: seconds by the wall
grow with whatever else the machine does. Nodes on one machine have no network between them.

Rerun, from the top of the checkout (two minutes on two idle cores; --quick: to see that it runs):

    .venv/bin/python -m benchmarks.bench_scaling --json scaling.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling import timing

Row = dict[str, Any]
PARTS = ("ledger", "driver", "nodes")


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run, print the rows, and return what --json writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--running", type=int, help="trials at once in the ledger's part")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where runs are made")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    sizes = options.sizes or ([100, 300] if options.quick else [100, 1_000, 10_000])
    running = options.running or (20 if options.quick else 800)
    rows = []
    with tempfile.TemporaryDirectory(prefix="pkdray-scaling-", dir=options.folder) as folder:
        for row in measured(Path(folder), options.only, sizes, running, options.repeats, quick=options.quick):
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(row)
    if options.json:
        about = {"cores": os.cpu_count(), "load": timing.load(), "sizes": sizes, "running": running}
        options.json.write_text(json.dumps({"settings": about, "rows": rows}, indent=2) + "\n")
    return rows


def measured(
    folder: Path, parts: Sequence[str], sizes: list[int], running: int, repeats: int, *, quick: bool
) -> Iterator[Row]:
    """The rows of each part, as they come."""
    if "ledger" in parts:
        from benchmarks.scaling import ledger

        yield from (
            {"part": "ledger", **row} for row in ledger.measure(folder, sizes, running=running, repeats=repeats)
        )
    if "driver" in parts:
        from benchmarks.scaling import driver
        from pkdray.cluster import connected

        with connected():
            trials, reports = (10, 20) if quick else (60, 100)
            yield from ({"part": "driver", **row} for row in driver.measure(folder / "driver", trials, reports, 2))
    if "nodes" in parts:
        from benchmarks.scaling import nodes

        counts, samples, trials = ([1, 2], 1_000, 6) if quick else ([1, 2, 4], 10_000, 24)
        yield from ({"part": "nodes", **row} for row in nodes.measure(folder / "nodes", counts, samples, trials))


if __name__ == "__main__":
    main()
