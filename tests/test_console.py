"""What a person sees, and what a script reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pkdray import console as console_module
from pkdray.console import Console, duration, print_error, progress_line, shown
from pkdray.errors import ConfigError
from pkdray.search.ledger import Counts
from pkdray.search.sweep import Progress


def progress(**changes: Any) -> Progress:
    counts = Counts(planned=24, complete=7, pruned=5, failed=0, running=2)
    values = {"counts": counts, "best_number": 9, "best_value": 0.81804, "seconds": 61.1, "seconds_left": 63.0}
    return Progress(**{**values, **changes})


def test_a_sweeps_progress_is_one_line() -> None:
    assert progress_line(progress()) == (
        "12/24 trials done (5 pruned), 2 running · best 0.8180 (trial 9) · 1:01 elapsed, about 1:03 left"
    )


def test_progress_says_nothing_of_what_there_is_not_yet() -> None:
    start = progress(
        counts=Counts(planned=24, complete=0, pruned=0, failed=0, running=0),
        best_number=None,
        best_value=None,
        seconds=0.4,
        seconds_left=None,
    )
    assert progress_line(start) == "0/24 trials done · 0:00 elapsed"


def test_progress_does_not_hide_failures_and_shows_a_best_value_of_zero() -> None:
    counts = Counts(planned=9, complete=3, pruned=1, failed=2, running=0)
    line = progress_line(progress(counts=counts, best_number=0, best_value=0.0, seconds=3725.0, seconds_left=0.0))
    assert line == "6/9 trials done (1 pruned, 2 failed) · best 0.0000 (trial 0) · 1:02:05 elapsed"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("nan"), "-"), (0.5, "0.5000"), (0, "0"), (12, "12"), ("a", "a")]
)
def test_a_tables_cell(value: object, text: str) -> None:
    assert shown(value) == text


def test_with_json_standard_output_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.say("a line about what is going on")
    console.table("Title", ["a"], [[1]])
    with console.progress("working ...") as meter:
        meter.show("half way")
    console.result({"value": 0.5, "path": "a/b"}, "for a person")
    said = capsys.readouterr()
    assert json.loads(said.out) == {"value": 0.5, "path": "a/b"}
    assert "what is going on" in said.err
    assert "half way" in said.err


def test_for_a_person_results_go_to_standard_output_and_the_rest_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    console.say("going on [bold]literally[/bold] 100%")
    console.table("Trials", ["trial", "value"], [[3, 0.25], [4, None]])
    console.result({"unseen": 1}, "Done.")
    said = capsys.readouterr()
    assert said.err == "going on [bold]literally[/bold] 100%\n", "no markup is taken out of what a user named"
    assert "0.2500" in said.out
    assert said.out.endswith("Done.\n")
    assert "unseen" not in said.out


def test_off_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 100.0}
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock["now"])
    with Console().progress("Sweep: starting ...") as meter:
        for clock["now"], text in ((100.0, "1/9"), (103.0, "2/9"), (111.0, "3/9"), (150.0, "3/9"), (151.0, "4/9")):
            meter.show(text)
    assert capsys.readouterr().err.splitlines() == ["Sweep: starting ...", "1/9", "3/9", "4/9"]


def test_an_error_lists_every_fault_and_its_cure(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError("space.yaml has 2 faults:", details=["a: one", "b: two"], cure="Mend them.")
    print_error(error, as_json=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "Error: space.yaml has 2 faults:\n  - a: one\n  - b: two\nMend them.\n"


def test_an_error_is_a_document_too_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfigError("what", details=["one"], cure="cure"), as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"error": "ConfigError", "what": "what", "details": ["one"], "cure": "cure"}
    assert said.err.startswith("Error: what")
