"""The report of a run that was really swept and evaluated, in a browser: nothing in it is pretended."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browsing import visit_page

from pkdray.config import build_config
from pkdray.data.dataset import open_dataset
from pkdray.evaluate import Request, evaluate_run
from pkdray.report import Written, write_report
from pkdray.search.run import POOLS, Run
from pkdray.search.sweep import sweep
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import make_plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import train_teacher

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STUDY: dict[str, Any] = {
    "name": "real",
    "seed": 3,
    "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor", "zer"]},
    "teachers": {
        "encoder": {"hidden": [13], "dropout": 0.1},
        "embedding": 11,
        "training": {"epochs": 4, "batch_size": 97, "learning_rate": 0.01},
        "adapters": {"enabled": False},
    },
    "student": {"encoder": {"hidden": [12], "dropout": 0.1}, "tnet": {"hidden": [9], "fit": {"epochs": 2}}},
    "training": {"epochs": 6, "batch_size": 97, "learning_rate": 0.01},
    # Of several at once, which come first to a rung, and so which are stopped, is chance.
    "resources": {"concurrent_trials": 1},
    "search": {
        "trials": 12,
        "sampler": "random",
        "asha": {"grace_epochs": 2, "reduction_factor": 2},
        "space": {
            "training.learning_rate": {"float": [1e-4, 3e-2], "log": True},
            "method.name": {"choice": ["kl", "supervised"]},
        },
    },
}
OFTEN_MISSING = {
    "Importance of parameters", "Parallel coordinates", "Contours", "Who taught the best trials",
    "The gate, by teacher, class and subject", "Teachers by class", "Teachers by subject",
}  # fmt: skip
"""What so small a study may have too little for; everything else must be there."""


@dataclass(frozen=True)
class Real:
    """The run, what its evaluation said, and its report."""

    run: Run
    evaluation: dict[str, Any]
    report: Written


@pytest.fixture(scope="module")
def real(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Real:
    runs = tmp_path_factory.mktemp("real") / "runs"
    dataset = open_dataset("mfeat")
    plan = make_plan(build_config(STUDY), dataset)
    pool = Pool.at(runs / POOLS, plan)
    (member,) = plan.pool.values()
    arrays = split_arrays(plan, dataset, member.modalities)
    scores = train_teacher(plan, member, arrays, pool.teacher(member.name))
    embed_pool(plan, dataset, pool)
    pool.write(plan, {member.name: scores})
    run = Run.create(runs / "real", plan)
    with run.lock():
        sweep(run, plan, dataset, pool)
        said = evaluate_run(run, plan, dataset, lambda _: pool, Request(seeds=2, against=("supervised",)))
    return Real(run, said, write_report(run))


def test_every_figure_of_a_real_run_is_drawn_on_a_desk_and_on_a_phone(real: Real, browser: Any) -> None:
    for width, touch in ((1280, False), (390, True)):
        seen = visit_page(browser, real.report.path, width=width, touch=touch)
        assert seen.page.locator(".plot").count() == real.report.figures > 15
        assert seen.empty_figures == []
        assert seen.faults == []
        assert seen.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [width] * 2
        seen.context.close()


def test_its_page_says_what_the_evaluation_and_the_ledger_say(real: Real, browser: Any) -> None:
    seen = visit_page(browser, real.report.path)
    page = seen.page
    assert set(real.report.left_out) <= OFTEN_MISSING
    assert real.evaluation["comparisons"][0]["sentence"] in page.locator("#summary").inner_text()
    assert "The test split was opened once, on " in page.locator("#evaluation").inner_text()
    answers = page.locator("#answers").inner_text()
    right = round(500 * real.evaluation["student"]["test"]["accuracy"])
    assert f"{right} of 500" in answers.partition("on validation and ")[2]
    assert f"Test accuracy of the student of trial {real.evaluation['trial']};" in answers
    taken = page.locator("#similarity").inner_text()
    assert "(64 of 500 validation rows are drawn.)" in taken
    assert "(400 of 500 validation rows are drawn.)" in taken

    states = [row.locator("td").nth(1).inner_text() for row in page.locator("#trials tbody").first.locator("tr").all()]
    trials = real.run.ledger().trials()
    assert states == [trial.state.name.lower() for trial in trials]
    assert "pruned" in states
    # Pruned trials say where they ran, and what the evaluation tuned and did not choose counts as time too.
    where = page.locator("#where")
    assert "1 place took part." in where.inner_text()
    assert "not recorded" not in where.inner_text()
    rows = [[cell.inner_text() for cell in row.locator("td").all()] for row in where.locator("tbody tr").all()]
    trained = len(list(real.run.path.glob("evaluation/*/trained.json")))
    assert {(row[0], int(row[2])) for row in rows} == {("search", len(trials)), ("evaluation", trained)}
    assert trained > sum(len(about["pairs"]) for name, about in real.evaluation["methods"].items() if name != "teacher")
    seen.context.close()


def test_gone_on_after_the_evaluation_the_page_gives_no_verdict(real: Real, browser: Any, tmp_path: Path) -> None:
    shutil.copytree(real.run.runs_dir, tmp_path / "runs")
    run = Run(tmp_path / "runs" / "real")
    found = json.loads((run.path / "evaluation.json").read_text())
    # As if it had been made when another trial was the best.
    leader = found["request"]["trial"]
    found["request"]["trial"] = leader + 1
    (run.path / "evaluation.json").write_text(json.dumps(found))
    opening = {"at": found["test_opened"]["at"], "request": found["request"]}
    (run.path / "test_opened.json").write_text(json.dumps({"openings": [opening]}))
    written = write_report(run)
    seen = visit_page(browser, written.path)
    verdict = seen.page.locator("#summary p").first.inner_text()
    assert verdict.startswith(f"Trial {leader} has not been evaluated.")
    assert "--seeds 2 --against supervised --reopen" in seen.page.locator("#summary").inner_text()
    assert seen.empty_figures == []
    assert seen.faults == []
    seen.context.close()
