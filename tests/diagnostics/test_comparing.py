"""Several runs in one table: what is known of each, what keeps them apart, and paired differences."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pkdray.diagnostics.comparing import as_rows, as_texts, differences, paired, pairs, remarks, summarise
from pkdray.evaluate import FORMAT
from pkdray.search.results import write_best
from pkdray.search.run import sampler_for

SEEDS = [3, 4, 5, 6, 7, 8, 9]


def evaluation(student: Sequence[float | None], folds: Sequence[int | None] = (None,), **more: Any) -> dict[str, Any]:
    """An evaluation.json with these test scores, a pair for each fold and seed."""
    places = [(fold, seed) for fold in folds for seed in SEEDS][: len(student)]
    rows = {
        "lower_bound": {"mean": 0.5, "std": 0.0125, "interval": [0.4875, 0.5125], "pairs": []},
        "student": {
            "mean": 0.75,
            "std": 0.03125,
            "interval": None,
            "pairs": [
                {"fold": fold, "seed": seed, "test": None if value is None else {"accuracy": value}}
                for (fold, seed), value in zip(places, student, strict=True)
            ],
        },
        "teacher": {"mean": 0.9375, "std": None, "interval": None, "pairs": []},
    }
    comparison = {
        "method": "student",
        "against": "lower_bound",
        "difference": 0.25,
        "interval": [0.125, 0.375],
        "effect_size": 1.5,
        "more_seeds": None,
        "tests": {"wilcoxon": {"p": 0.01, "p_holm": 0.02}},
        "verdict": "helped",
    }
    return {
        "format": FORMAT,
        "trial": 0,
        "request": {"trial": 0},
        "folds": list(folds),
        "seeds": SEEDS,
        "methods": rows,
        "comparisons": [comparison],
        **more,
    }


def write(folder: Path, document: Any) -> None:
    (folder / "evaluation.json").write_text(json.dumps(document), encoding="utf-8")


def test_a_run_is_one_row_of_what_is_known_and_one_for_each_method_it_was_compared_with(small_dataset, trained):
    made = trained(small_dataset(), {"method.name": "pkd"}, "mine")
    before = summarise(made.run)
    assert as_texts(before)[0] == [
        "mine",
        "small-classification-vectors",
        "pkd",
        "1/0/0 of 1",
        f"{made.run.ledger().best().value:.4f}",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
    ]
    assert remarks([before]) == ["Not evaluated, so validation alone is shown: mine."]
    write_best(made.run, made.plan, made.dataset, 0)
    write(made.run.path, evaluation([0.7, 0.8]))
    after = summarise(made.run)
    # Parameters and MACs by hand: tests/test_profile.py.
    assert as_texts(after)[0][5:] == [
        "0.5000 +- 0.0125 (0.4875 to 0.5125)",
        "0.7500 +- 0.0312",
        "+0.2500 (p = 0.02, d = 1.5), helped",
        "0.9375",
        "737",
        "676",
    ]
    (row,) = as_rows(after)
    assert (row["student_low"], row["lower_bound_high"], row["gain_high"]) == (None, 0.5125, 0.375)
    assert remarks([after]) == []
    document = evaluation([0.7, 0.8])
    document["methods"]["kl"] = {"mean": 0.625, "std": 0.0625, "interval": [0.5, 0.75], "trial": None, "pairs": []}
    against = {"method": "kl", "difference": 0.125, "effect_size": 0.25, "verdict": "not enough evidence"}
    # The comparison of the student is not the first of them.
    document["comparisons"].insert(0, document["comparisons"][0] | against | {"more_seeds": 31})
    write(made.run.path, document)
    compared = summarise(made.run)
    assert as_texts(compared)[0] == as_texts(after)[0]
    gain = "+0.1250 (p = 0.02, d = 0.2), not enough evidence, about 31 more seeds would settle it"
    expected = [
        "mine",
        "-",
        "kl (--against)",
        "-",
        "-",
        "-",
        "0.6250 +- 0.0625 (0.5000 to 0.7500)",
        gain,
        "-",
        "-",
        "-",
    ]
    assert as_texts(compared)[1:] == [expected]
    assert [(row["row"], row["method"], row["gain"]) for row in as_rows(compared)] == [
        ("student", "pkd", 0.25),
        ("against", "kl", 0.125),
    ]


@pytest.mark.parametrize(
    ("older", "options"),
    [
        # It kept no record of what the test split was opened for.
        ({"trial": 0, "seeds": [0], "methods": {"student": {"mean": 0.9}}, "comparison": {}}, " --reopen"),
        (evaluation([0.7, 0.8]) | {"format": 2}, ""),
    ],
)
def test_an_evaluation_by_an_older_pkdray_is_not_shown_and_how_to_have_it_is_said(
    small_dataset, trained, older, options
):
    run = trained(small_dataset(), {}, "mine").run
    write(run.path, older)
    found = summarise(run)
    assert as_texts(found)[0][5:9] == ["-"] * 4
    (remark,) = remarks([found])
    assert "by an older pkdray, whose numbers are not shown: mine" in remark
    assert remark.endswith(f"evaluate it again: pkdray evaluate {run.path}{options}")


def test_in_a_metric_that_falls_a_gain_is_told_as_a_fall(small_dataset, trained):
    made = trained(small_dataset("regression"), {"search.metric": "mse"}, "falling")
    write(made.run.path, evaluation([0.7, 0.8]))
    found = summarise(made.run)
    assert as_texts(found)[0][7] == "0.2500 lower (p = 0.02, d = 1.5), helped"
    scores = {(None, seed): 0.5 + 0.01 * seed for seed in SEEDS}
    worse = {place: value + 0.05 + 0.001 * place[1] for place, value in scores.items()}
    one, two = replace(found, scores=scores), replace(found, name="other", scores=worse)
    (told,) = paired([one, two])
    gains = [scores[place] - worse[place] for place in scores]
    low, high = stats.ttest_1samp(gains, 0).confidence_interval()
    assert told["difference"] == pytest.approx(np.mean(gains))
    assert told["sentence"].startswith(
        "The student of other is worse than that of falling: mse higher by 0.0560 than that of falling "
        f"(95 % {-low:.4f} to {-high:.4f} higher, better in 0 of 7 pairs"
    )


def test_the_value_is_that_of_the_trial_that_was_evaluated_and_not_of_a_better_one_since(small_dataset, trained):
    run = trained(small_dataset(), {}, "mine").run
    write(run.path, evaluation([0.7, 0.8]))
    before = summarise(run)
    ledger = run.ledger()
    ledger.extend(2)
    trial = ledger.ask(sampler_for(run.config))
    ledger.complete(trial.number, 2.0, {})
    after = summarise(run)
    assert (after.trial, after.validation) == (0, before.validation)


def test_choosing_among_evaluated_runs_is_told_to_be_selection_on_test(small_dataset, trained):
    dataset = small_dataset()
    runs = [trained(dataset, {}, name).run for name in ("a", "b")]
    write(runs[0].path, evaluation([0.7, 0.8]))
    assert not any("select on the test split" in line for line in remarks([summarise(run) for run in runs]))
    write(runs[1].path, evaluation([0.7, 0.8]))
    assert any("select on the test split" in line for line in remarks([summarise(run) for run in runs]))


def test_what_differs_is_said_and_is_not_tested(small_dataset, trained):
    dataset = small_dataset()
    first = trained(dataset, {"method.name": "pkd"}, "first").run
    scores = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76]
    write(first.path, evaluation(scores))
    others: dict[str, tuple[Callable[[], Any], str]] = {
        "data": (lambda: trained(small_dataset(seed=5), {}, "data").run, "the datasets differ: first: small"),
        "metric": (
            lambda: trained(dataset, {"search.metric": "macro_f1"}, "metric").run,
            "the metrics differ: first: accuracy; metric: macro_f1",
        ),
        "fold": (
            lambda: trained(dataset, {"dataset.fold": 2}, "fold").run,
            "the folds of the search differ: first: the split column; fold: fold 2",
        ),
    }
    for name, (make, says) in others.items():
        run = make()
        write(run.path, evaluation(scores, [2] if name == "fold" else [None]))
        found = [summarise(first), summarise(run)]
        assert any(says in line for line in differences(found)), differences(found)
        assert pairs(*found) == []
        assert paired(found) == []
    same = trained(dataset, {"method.name": "pkdot", "method.top_k": 5}, "same").run
    assert differences([summarise(first), summarise(same)]) == []
    write(same.path, evaluation(scores[:6]))
    assert pairs(summarise(first), summarise(same)) == [], "other seeds"


def test_students_are_paired_by_fold_and_seed_and_lost_pairs_left_out(small_dataset, trained):
    dataset = small_dataset()
    runs = [trained(dataset, {}, name).run for name in ("a", "b", "c")]
    reference = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76]
    better = [value + 0.01 * (index + 1) for index, value in enumerate(reference)]
    document = evaluation([*better[:3], None, *better[4:]])
    # The order of the file is not what pairs them.
    document["methods"]["student"]["pairs"].reverse()
    for run, said in zip(runs, (evaluation(reference), document, evaluation(reference[::-1])), strict=True):
        write(run.path, said)
    found = [summarise(run) for run in runs]
    told = paired(found)
    assert [(one["run"], one["against"], one["pairs"]) for one in told] == [("b", "a", 6), ("c", "a", 7)]
    gains = [0.01, 0.02, 0.03, 0.05, 0.06, 0.07]
    assert told[0]["difference"] == pytest.approx(np.mean(gains))
    assert told[0]["tests"]["wilcoxon"]["p"] == pytest.approx(2 / 2**6)
    low, high = stats.ttest_1samp(gains, 0).confidence_interval()
    assert told[0]["interval"] == pytest.approx([low, high])
    # Two comparisons: what would be enough alone is not.
    assert told[0]["tests"]["wilcoxon"]["p_holm"] == pytest.approx(4 / 2**6)
    assert told[0]["sentence"].startswith(
        "Not enough evidence that the students of b and a differ: +0.0400 accuracy over that of a "
        f"(95 % {low:+.4f} to {high:+.4f}, better in 6 of 6 pairs, Wilcoxon p = 0.062 with Holm's correction, d = 1.7)."
    )
    assert told[0]["more_seeds"] == 1
    assert told[0]["sentence"].endswith("About 1 more seed would settle it, if the difference is what it seems.")
    assert told[1]["sentence"].startswith("Not enough evidence that the students of c and a differ: +0.0000 accuracy")


def test_the_command_shows_writes_and_gives_json(small_dataset, trained, pkdray, tmp_path):
    dataset = small_dataset()
    one = trained(dataset, {}, "one").run
    trained(dataset, {}, "two")
    write(one.path, evaluation([0.7, 0.8]))
    said = pkdray("compare", "one", "two", "runs/one", "-o", "table.csv")
    assert said.code == 0
    assert said.out.count("0.5000 +- 0.0125") == 1
    assert "Not evaluated, so validation alone is shown: two." in said.out
    assert "The table is in table.csv." in said.out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [(row["run"], row["student"], row["teacher"]) for row in rows] == [
        ("one", "0.75", "0.9375"),
        ("two", "", ""),
    ]
    for name in ("table.md", "table.html"):
        assert pkdray("compare", "one", "two", "-o", name).code == 0
        text = (tmp_path / name).read_text()
        assert "0.5000 +- 0.0125" in text
        assert "validation alone is shown: two." in text
    document = json.loads(pkdray("compare", "one", "two", "--json").out)
    assert [run["name"] for run in document["runs"]] == ["one", "two"]
    assert document["runs"][0]["scores"][1] == {"fold": None, "seed": 4, "test": 0.8}
    assert document["paired"] == []
    write(one.path, evaluation([0.7, 0.8], trial=0, request={"trial": 5}))
    overtaken = "one: The evaluation is of trial 0; since then trial 0 has"
    assert any(line.startswith(overtaken) for line in json.loads(pkdray("compare", "one", "--json").out)["remarks"])
    wrong = pkdray("compare", "one", "-o", "table.xls")
    assert wrong.code == 2
    assert "table.xls is no table's name" in wrong.err
    assert not (tmp_path / "table.xls").exists()
    missing = pkdray("compare", "one", "three")
    assert missing.code == 2
    assert "There is no run 'three'" in missing.err


def test_runs_of_one_name_go_by_their_paths(small_dataset, trained, pkdray, tmp_path):
    run = trained(small_dataset(), {}, "same").run
    (tmp_path / "elsewhere").mkdir()
    run.path.rename(tmp_path / "elsewhere" / "same")
    trained(small_dataset(seed=2), {}, "same")
    document = json.loads(pkdray("compare", "elsewhere/same", "runs/same", "--json").out)
    assert [one["name"] for one in document["runs"]] == ["elsewhere/same", "runs/same"]
    assert "the datasets differ" in document["remarks"][0]


def test_the_command_tests_students_of_the_same_seeds(small_dataset, trained, pkdray):
    pytest.importorskip("pkdray.evaluate.statistics")
    dataset = small_dataset()
    scores = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76]
    for name, shift in (("one", 0.0), ("two", 0.05)):
        write(trained(dataset, {}, name).run.path, evaluation([value + shift for value in scores]))
    document = json.loads(pkdray("compare", "one", "two", "--json").out)
    (found,) = document["paired"]
    assert found["verdict"] == "helped"
    assert found["tests"]["wilcoxon"]["p"] == pytest.approx(2 / 2**7)
    assert found["sentence"].startswith("The student of two is better than that of one: +0.0500 accuracy")
