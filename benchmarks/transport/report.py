"""What the rows mean: a table for a person, and the measured against the aims."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.transport.timing import GRADIENT_BAR, VALUE_BAR

Row = dict[str, Any]

SPEED_AIMS = ((128, 1, 0.40), (512, 1, 0.28), (128, 8, 0.10))
"""Batch, lanes, and the time of a problem as a ratio to one call of geomloss, for k = 30 and epsilon >= 0.01."""


def results_table(rows: Iterable[Row]) -> str:
    """Every row of every cell."""
    head = ["B", "k", "epsilon", "lanes", "who", "setting", "ms", "median", "ratio", "value", "gradient", "bar", "note"]
    return markdown(
        head,
        [
            [
                str(row["batch"]),
                str(row["k"]),
                f"{row['epsilon']:g}",
                str(row["lanes"]),
                row["competitor"],
                "" if row["setting"] is None else f"{row['setting']:g}",
                f"{row['ms_min']:.3g}",
                f"{row['ms_median']:.3g}",
                _ratio(row["ratio"]),
                f"{row['value_error']:.0e}",
                f"{row['gradient_error']:.0e}",
                "met" if row["meets_bar"] else "missed",
                "; ".join(
                    filter(None, [row["mode"] if row["mode"] != f"batch of {row['lanes']}" else "", row["note"]])
                ),
            ]
            for row in rows
        ],
    )


def aims(rows: Iterable[Row]) -> list[Row]:
    """Every aim, what was measured, and whether it is met; None where this run has no such cell."""
    mine = [row for row in rows if row["competitor"] == "ours"]
    found = []
    for batch, lanes, bar in SPEED_AIMS:
        for epsilon in (1.0, 0.1, 0.01):
            cell = {"batch": batch, "lanes": lanes, "k": 30, "epsilon": epsilon}
            row = next((row for row in mine if all(row[name] == value for name, value in cell.items())), None)
            measured = row["ratio"] if row else None
            inexact = "" if not row or row["meets_bar"] else " (inexact)"
            found.append(
                {
                    "aim": f"time, B {batch}, k 30, epsilon {epsilon:g}, {lanes} lane{'s' * (lanes > 1)}",
                    "bar": f"<= {bar:.2f}",
                    "measured": "" if measured is None else f"{measured:.3f}{inexact}",
                    "met": None if row is None or measured is None else measured <= bar and row["meets_bar"],
                }
            )
    coarse = [case for row in mine if row["epsilon"] >= 0.01 for case in row["cases"].values()]
    fine = [case for row in mine if row["epsilon"] < 0.01 for case in row["cases"].values()]
    for aim, cases, name, bar, wanted in (
        ("value, epsilon >= .01", coarse, "value_error", VALUE_BAR, 1.0),
        ("gradient, epsilon >= .01", coarse, "gradient_error", GRADIENT_BAR, 1.0),
        ("gradient, epsilon .001", fine, "gradient_error", GRADIENT_BAR, 0.97),
        ("gradient, epsilon .001", fine, "gradient_error", 5e-2, 1.0),
    ):
        errors = [case[name] for case in cases]
        share = statistics.mean(error <= bar for error in errors) if errors else None
        found.append(
            {
                "aim": aim,
                "bar": f"<= {bar:g} in {wanted:.0%}",
                "measured": "" if share is None else f"{share:.1%} of {len(errors)}, worst {max(errors):.1e}",
                "met": None if share is None else share >= wanted,
            }
        )
    return found


def aims_table(found: Iterable[Row]) -> str:
    """The aims, for a person."""
    words = {True: "met", False: "MISSED", None: "not run"}
    return markdown(
        ["aim", "bar", "measured", ""], [[aim["aim"], aim["bar"], aim["measured"], words[aim["met"]]] for aim in found]
    )


def tuned_table(rows: Sequence[Row], k: int = 30) -> str:
    """How many times longer than ours the others take, one lane, and at which error."""
    lines = []
    for mine in rows:
        if mine["competitor"] != "ours" or mine["lanes"] != 1 or mine["k"] != k:
            continue
        cell = [row for row in rows if all(row[name] == mine[name] for name in ("batch", "k", "epsilon", "lanes"))]
        line = [str(mine["batch"]), f"{mine['epsilon']:g}", f"{mine['ms_min']:.3g}", f"{mine['gradient_error']:.0e}"]
        for name in ("geomloss", "geomloss-tuned", "pot-tuned"):
            row = next((row for row in cell if row["competitor"] == name), None)
            line.append(_against(row, mine) if row else "-")
        lines.append(line)
    return markdown(["B", "epsilon", "ours, ms", "gradient", "geomloss", "geomloss-tuned", "pot-tuned"], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table that reads well as plain text too."""
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, rule, *lines)
    )


def _against(row: Row, mine: Row) -> str:
    common = row["cases"].keys() & mine["cases"].keys()
    times = statistics.median(min(row["cases"][c]["ms"]) / min(mine["cases"][c]["ms"]) for c in common)
    setting = "" if row["setting"] is None else f" at {row['setting']:g}"
    return f"{times:.3g} x{setting}, {row['gradient_error']:.0e}{'' if row['meets_bar'] else ' (inexact)'}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.3g}"
