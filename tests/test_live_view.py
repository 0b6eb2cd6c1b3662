"""The live table: whole on narrow terminals and short ones."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console as RichConsole

from pkdray.console.live import live_view
from pkdray.search.ledger import Counts
from pkdray.search.live import LiveState


def snapshot(running: int = 3, state: str = "running", node: str = "gpu-node-17.cluster.example.org") -> dict[str, Any]:
    live = LiveState("demo", metric="balanced_accuracy", mode="max", epochs=60)
    counts = Counts(planned=240, complete=101, pruned=77, failed=3, running=running)
    live.stand(counts, (9, 0.81804, "mt-pkdot"))
    live.climb({8: 150, 24: 61, 72: 0})
    parameters = {
        "training.learning_rate": 0.00123456,
        "method.name": "mt-pkdot",
        "method.alpha": 0.5,
        "method.teachers": ["joint", "fac"],
    }
    for number in range(4):
        live.started(number, parameters, method="mt-pkdot", epochs=60)
        live.epoch(number, 8, 0.5, node=node, device="NVIDIA A100-SXM4-80GB")
        live.ended(number, ["complete", "pruned", "failed", "pruned"][number])
    for number in range(100, 100 + running):
        live.started(number, parameters, method="mt-pkdot", epochs=60)
        live.epoch(number, 23, 0.7531, rung=8, node=node, device="NVIDIA A100-SXM4-80GB")
    return live.snapshot(state)


def drawn(live: dict[str, Any], width: int, height: int = 40, note: str = "") -> list[str]:
    console = RichConsole(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(live_view(live, height=height, note=note))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_the_terminal_with_what_matters(width: int) -> None:
    lines = drawn(snapshot(), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in ("Sweep demo", "181/240", "balanced_accuracy 0.8180", "trial 9, mt-pkdot", "23/60", "0.7531", "pruned"):
        assert part in text, part
    rows = [line for line in lines if line.split()[:1] and line.split()[0] in ("100", "101", "102")]
    assert len(rows) == 3, "a line a trial"
    assert all("mt-p" in row for row in rows)
    if width >= 80:
        assert all("alpha=0.5" in row for row in rows)
        assert "rungs 8 (150 trials), 24 (61 trials)" in text


def test_many_trials_do_not_run_out_of_a_short_terminal() -> None:
    lines = drawn(snapshot(running=64), 80, height=24)
    assert len(lines) <= 24
    shown = [line for line in lines if "23/60" in line]
    assert len(shown) >= 8
    assert f"and {64 - len(shown)} more running" in "\n".join(lines)


def test_a_note_and_the_teachers_in_training_are_shown() -> None:
    text = "\n".join(drawn(snapshot(), 80, note="Stale: nothing was heard."))
    assert "Stale: nothing was heard." in text
    teaching = {**snapshot(0, "teaching"), "teachers": {"trained": {"joint": 0.9712}, "training": ["shape"]}}
    assert "Teachers: joint 0.9712; training shape" in "\n".join(drawn(teaching, 80))
