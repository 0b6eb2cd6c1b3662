"""Runs in states that a reader must not be misled by: gone on after the evaluation, half scored, without a student."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Said
from optuna.trial import TrialState
from report_runs import pretend_diagnostics

from pkdray.report import Facts, gather, sections
from pkdray.report.blocks import Missing, Plots, Section, Table, Text, Tiles
from pkdray.search.ledger import Ledger
from pkdray.search.run import Run, fixed_values, sampler_for
from pkdray.search.space import suggest


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkdray.diagnostics", pretend_diagnostics("classification"))


@pytest.fixture
def copied(classified: Run, tmp_path: Path) -> Run:
    """A copy of the evaluated run, to be changed."""
    shutil.copytree(classified.runs_dir, tmp_path / "runs")
    return Run(tmp_path / "runs" / "tiny")


def told(run: Run) -> tuple[Facts, dict[str, Section], str]:
    """The facts, the sections by their key, and every sentence and command of them."""
    facts = gather(run)
    parts = sections(facts)
    lines: list[str] = []
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Text):
                lines += [block.text, block.command]
            elif isinstance(block, Missing):
                lines += [block.why, block.command]
            elif isinstance(block, Table | Plots):
                lines.append(block.says)
    return facts, {part.key: part for part in parts}, "\n".join(lines)


def tiles(part: Section) -> dict[str, str]:
    (block,) = [block for block in part.blocks if isinstance(block, Tiles)]
    return {tile.name: f"{tile.value} {tile.note}" for tile in block.tiles}


def finish_another(run: Run, value: float, method: str = "pkd") -> int:
    ledger: Ledger = run.ledger()
    trial = ledger.ask(sampler_for(run.config))
    suggest(run.config.search.space, trial, fixed_values(run.config))
    ledger.complete(trial.number, value, {"method": method, "epoch": 1, "epochs": 1, "seconds": 1.0})
    return int(trial.number)


def keep(run: Run, number: int) -> None:
    """``best/`` made anew for another trial, as a resume does it."""
    (run.best / "metrics.json").write_text(json.dumps({"trial": number, "validation": {}}))
    (run.best / "predictions.test.parquet").unlink()


def change_evaluation(run: Run, change: Callable[[dict[str, Any]], None]) -> None:
    said = json.loads((run.path / "evaluation.json").read_text())
    change(said)
    (run.path / "evaluation.json").write_text(json.dumps(said))


def test_a_better_trial_after_the_evaluation_does_not_get_its_verdict(copied: Run, pkdray: Callable[..., Said]) -> None:
    before = copied.ledger().best()
    assert before is not None
    newer = finish_another(copied, 0.99)
    keep(copied, newer)
    facts, parts, lines = told(copied)
    why = f"The evaluation is of trial {before.number}; since then trial {newer} has become the best."
    assert facts.overtaken == why
    first = parts["summary"].blocks[0]
    assert isinstance(first, Text)
    assert first.text.startswith(f"Trial {newer} has not been evaluated. The best student of the search reaches")
    assert tiles(parts["summary"])["Best trial"].startswith(str(newer))
    assert "Gap closed" not in tiles(parts["summary"])
    (place,) = [block for block in parts["summary"].blocks if isinstance(block, Plots)]
    assert place.says.startswith("On validation")
    assert f"{why} Of trial {before.number} it said: Distillation helped" in lines
    assert f"{why} What follows is of trial {before.number} alone." in lines
    assert f"of the student of trial {before.number}; groups of few samples say little. {why}" in lines
    assert "has not been opened" not in lines
    assert f"{why} The test split was opened 2 times, last on 2026-01-02." in lines
    assert f"pkdray evaluate {copied.path} --seeds 3 --against kl --reopen" in lines
    said = pkdray("report", "tiny")
    assert "pkdray evaluate runs/tiny --seeds 3 --against kl --reopen" in said.out
    assert "pkdray export" not in said.out


def test_the_student_of_an_evaluation_with_top_is_not_the_best_of_the_search(copied: Run) -> None:
    """A resume of an older pkdray has put the search's best into best/; the verdict is of the other all the same."""
    ranked = gather(copied).complete
    chosen, leader = ranked[1].number, ranked[0].number

    def choose(said: dict[str, Any]) -> None:
        said["trial"] = chosen
        said["request"] |= {"trial": leader, "top": 2}

    change_evaluation(copied, choose)
    keep(copied, leader)
    facts, parts, lines = told(copied)
    assert facts.overtaken is None
    assert tiles(parts["summary"])["Best trial"].startswith(str(chosen))
    assert "chosen by the evaluation" in tiles(parts["summary"])["Best trial"]
    assert f"best/ holds the student of trial {leader}, not of trial {chosen}: these answers are its." in lines
    assert "opened 2 times, last on 2026-01-02. Its answers are not in best/ any more." in lines
    (bold,) = [row[0] for row in _table(parts["trials"], "All trials").rows if row[0].strong]  # type: ignore[attr-defined]
    assert bold.value == chosen


def test_a_student_whose_own_test_split_was_not_asked_for_has_no_test_answers(copied: Run) -> None:
    """As after ``evaluate --folds 1,2`` of a run that was searched on fold 0."""

    def other_folds(said: dict[str, Any]) -> None:
        said["student"]["test"], said["subgroups"] = None, {}

    change_evaluation(copied, other_folds)
    (copied.best / "predictions.test.parquet").unlink()
    _, parts, _ = told(copied)
    why = "The student's own test split was none of those that the evaluation was asked for."
    assert {block.title: block.why for block in parts["answers"].missing} == {"Answers on test": why, "Subgroups": why}


@pytest.mark.parametrize("how", ["moved", "damaged"])
def test_an_opening_without_an_evaluation_is_told(copied: Run, how: str, pkdray: Callable[..., Said]) -> None:
    if how == "moved":
        (copied.path / "evaluation.json").unlink()
    else:
        (copied.path / "evaluation.json").write_text("{")
    (copied.best / "predictions.test.parquet").unlink()
    _, parts, lines = told(copied)
    opened = "The test split was opened 2 times, last on 2026-01-02."
    for part in ("summary", "evaluation", "answers"):
        texts = [block.text if isinstance(block, Text) else block.why for block in parts[part].blocks
                 if isinstance(block, Text | Missing)]  # fmt: skip
        assert any(opened in text or "evaluation.json is damaged" in text for text in texts), part
    assert opened in parts["evaluation"].missing[0].why
    assert "has not been opened" not in lines
    assert ("damaged" in lines) == (how == "damaged")
    assert ("is not counted again" in lines) == (how == "moved")
    said = pkdray("report", "tiny")
    assert said.code == 0
    assert "pkdray evaluate runs/tiny --seeds 3 --against kl\n" in said.out


def test_a_record_of_openings_that_cannot_be_read_is_told_in_its_place(copied: Run) -> None:
    (copied.path / "evaluation.json").unlink()
    (copied.path / "test_opened.json").write_text("{")
    (copied.best / "predictions.test.parquet").unlink()
    lines = told(copied)[2]
    assert "without it nobody knows how often the test split was opened" in lines
    assert "has not been opened" not in lines


def test_an_opening_after_the_evaluation_is_told(copied: Run) -> None:
    path = copied.path / "test_opened.json"
    openings = json.loads(path.read_text())["openings"]
    path.write_text(json.dumps({"openings": [*openings, {"at": "2026-02-03T04:05:06+00:00", "request": {}}]}))
    lines = told(copied)[2]
    assert "The test split was opened 3 times, last on 2026-02-03." in lines
    assert "opened again after this evaluation, and no other one came of it" in lines


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_a_run_without_a_complete_trial_has_a_report_and_a_cure_that_works(
    regressed: Run, tmp_path: Path, state: TrialState, pkdray: Callable[..., Said]
) -> None:
    run = Run.create(tmp_path / "runs" / "tiny", regressed.plan(regressed.dataset()))
    ledger = run.ledger()
    for index in range(ledger.planned):
        trial = ledger.ask(sampler_for(run.config))
        suggest(run.config.search.space, trial, fixed_values(run.config))
        if state == TrialState.PRUNED or index % 2:
            ledger.report(trial.number, 1, 0.1)
        where = {"node": "n1", "device": "cpu", "seconds": 1.5}
        if state == TrialState.PRUNED:
            ledger.prune(trial.number, where)
        else:
            ledger.fail(trial.number, "nan", where)
    facts, parts, lines = told(run)
    assert facts.best is None
    assert "No trial is complete yet, so there is no student to speak of." in lines
    more = "--trials 54" if state == TrialState.PRUNED else "--retry-failed"
    assert parts["search"].missing[0].command == f"pkdray resume {run.path} {more}"
    assert len(_table(parts["trials"], "All trials").rows) == 27
    assert "1 place took part." in lines
    (spent,) = _table(parts["where"], "Time spent").rows
    assert (spent[1], spent[2], spent[3].value) == ("n1 · cpu", 27, 27 * 1.5)  # type: ignore[attr-defined]
    assert pkdray("report", "tiny").code == 0


def test_no_failure_is_nothing_that_was_left_out(regressed: Run, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "tiny", regressed.plan(regressed.dataset()))
    finish_another(run, 0.5)
    _, parts, lines = told(run)
    assert parts["trials"].missing == []
    assert "No trial failed." in lines


def test_an_evaluation_over_folds_is_shown_with_all_its_trainings(copied: Run) -> None:
    seeds, folds = [3, 4, 5], [0, 1, 2, 3]
    rng = np.random.default_rng(0)

    def over_folds(said: dict[str, Any]) -> None:
        said["folds"] = folds
        for key, about in said["methods"].items():
            places = [(fold, seed) for fold in folds for seed in ([None] if key == "teacher" else seeds)]
            values = rng.normal(0.7, 0.05, len(places)).tolist()
            # One training diverged.
            lost = 2 if key == "kl" else None
            about["pairs"] = [
                {"fold": fold, "seed": seed, "test": {"accuracy": value}, "seconds": 2.0, "node": "n1", "device": "cpu"}
                for (fold, seed), value in zip(places, values, strict=True)
            ]
            about["values"] = [value for index, value in enumerate(values) if index != lost]
            about["validation"] = about["values"]
            about["mean"] = float(np.mean(about["values"]))
            about["interval"] = [about["mean"] - 0.01, about["mean"] + 0.01]

    change_evaluation(copied, over_folds)
    _, parts, lines = told(copied)
    assert "Each method was trained anew with 3 seeds × 4 folds;" in lines
    table = _table(parts["evaluation"], "Methods")
    assert [row[list(table.columns).index("trainings")] for row in table.rows] == [12, 12, 11, 4]
    (plot,) = [block for block in parts["evaluation"].blocks if isinstance(block, Plots)]
    assert [len(trace.x) for trace in plot.plots[0].figure.data[::2]] == [12, 12, 11, 4]
    spent = {(row[0], row[1]): row[2] for row in _table(parts["where"], "Time spent").rows}
    assert spent[("evaluation", "n1 · cpu")] == 40


def test_a_supervised_student_is_given_no_teachers_merit(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    best = finish_another(copied, 0.99, "supervised")
    keep(copied, best)
    monkeypatch.setattr(sys.modules["pkdray.diagnostics"], "negative_transfer", lambda *_: None)

    def supervised(said: dict[str, Any]) -> None:
        said["trial"] = said["request"]["trial"] = best
        said["methods"]["student"] |= {"method": "supervised", "what": "face, supervised"}
        said["comparisons"][0]["sentence"] = "The student is better: +0.1000 accuracy over the lower bound."

    change_evaluation(copied, supervised)
    _, parts, lines = told(copied)
    assert tiles(parts["summary"])["Best trial"].startswith(f"{best} supervised")
    assert f"Trial {best} learnt from the labels alone: it has no teacher." in lines
    assert "istillation" not in lines


def test_damaged_tables_are_told_and_the_rest_is_written(copied: Run, pkdray: Callable[..., Said]) -> None:
    best = copied.ledger().best()
    assert best is not None
    (copied.best / "predictions.test.parquet").write_bytes(b"PAR1 half")
    (copied.best / "predictions.val.parquet").write_bytes(b"")
    (copied.trial(best.number) / "curves.parquet").write_bytes(b"PAR1 half a file PAR1")
    _, parts, _ = told(copied)
    why = {one.title: one.why for part in parts.values() for one in part.missing}
    assert "predictions.test.parquet is damaged" in why["Answers on test"]
    assert "predictions.val.parquet is damaged" in why["Answers on validation"]
    assert "curves.parquet is damaged" in why["How the best trial learnt"]
    assert pkdray("report", "tiny").code == 0


def test_commands_name_a_remote_run_by_its_uri_and_quote_what_a_shell_would_split(
    copied: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkdray.mirrors.paths.uri_of", lambda path: f"s3://bucket/my runs/{Path(path).name}")
    (copied.path / "evaluation.json").unlink()
    lines = told(copied)[2]
    assert "pkdray evaluate 's3://bucket/my runs/tiny'" in lines
    assert "pkdray sweep 's3://bucket/my runs/run.yaml' --name tiny-again" in lines
    assert f"pkdray evaluate {copied.path}" not in lines
    assert str(copied.path) not in "\n".join(line for line in lines.splitlines() if line.startswith("pkdray"))


def _table(part: Section, title: str) -> Table:
    (found,) = [block for block in part.blocks if isinstance(block, Table) and block.title == title]
    return found
