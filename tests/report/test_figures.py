"""Figures, one by one: what is drawn is what the ledger, the evaluation and the dataset say."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState
from report_runs import CLASSES, SUBJECTS
from sklearn.metrics import confusion_matrix

from pkdray.data.dataset import Dataset
from pkdray.errors import DatasetError
from pkdray.report import answers, cost, curves, evaluation, search, sections, similarity, summary, teachers, trials
from pkdray.report.blocks import Missing, Plots, Section, Table
from pkdray.report.facts import Facts
from pkdray.report.theme import DARK, STEPS, themed
from pkdray.search.ledger import summary as summary_of
from pkdray.search.run import Run


def plots(section: Section) -> dict[str, Plots]:
    return {block.title: block for block in section.blocks if isinstance(block, Plots)}


def tables(section: Section) -> dict[str, Table]:
    return {block.title: block for block in section.blocks if isinstance(block, Table)}


def complete(facts: Facts) -> list[FrozenTrial]:
    return [trial for trial in facts.trials if trial.state == TrialState.COMPLETE]


# Evaluation and summary


def test_the_interval_plot_has_every_training_and_every_interval(facts: Facts) -> None:
    assert facts.evaluation is not None
    figure = evaluation.intervals(facts.evaluation)
    methods = facts.evaluation["methods"]
    points = [list(trace.x) for trace in figure.data[::2]]
    assert points == [about["values"] for about in methods.values()]
    for trace, about in zip(figure.data[1::2], methods.values(), strict=True):
        (mean,) = trace.x
        assert mean == about["mean"]
        if about["interval"]:
            ends = [mean - trace.error_x.arrayminus[0], mean + trace.error_x.array[0]]
            assert ends == pytest.approx(about["interval"])
        else:
            assert trace.error_x.array is None


def test_the_comparisons_show_corrected_p_values_and_what_would_settle_them(facts: Facts) -> None:
    assert facts.evaluation is not None
    table = evaluation.comparisons_table(facts.evaluation)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["comparison"] for row in rows] == ["student against lower bound", "student against kl"]
    assert [row["verdict"] for row in rows] == ["helped", "not enough evidence"]
    assert [row["p (wilcoxon)"] for row in rows] == ["0.5000", "0.5000"]
    assert [row["p (bootstrap)"] for row in rows] == ["< 0.0001", "< 0.0001"]
    assert [row["more seeds"] for row in rows] == [None, 12]
    assert rows[1]["interval (bootstrap)"] == "-0.0300 to +0.0500"
    assert rows[1]["95 % interval"] == "-0.0400 to +0.0600"


def test_the_summary_says_the_verdict_and_where_the_student_stands(facts: Facts) -> None:
    assert summary.verdict(facts) == "Distillation helped: +0.1000 over the lower bound & more."
    found = summary.places(facts)
    assert {role: value for role, (_, value, _) in found.items()} == pytest.approx(
        {"lower_bound": 0.6, "student": 0.7, "teacher": 0.8}
    )
    assert found["student"][2] == (0.67, 0.73)
    assert summary.gap_closed(found, "max") == pytest.approx(0.5)
    tiles = {tile.name: tile.value for tile in summary.tiles(facts)}
    assert tiles["Best trial"] == str(max(complete(facts), key=lambda trial: trial.value or 0.0).number)
    assert tiles["Gap closed"] == "50 %"
    assert tiles["Trials"] == "27 of 27"


@pytest.mark.parametrize(
    ("mode", "lower", "student", "teacher", "expected"),
    [
        ("max", 0.80, 0.78, 0.75, None),  # the teacher is worse than the bound, and the student hurt
        ("max", 0.80, 0.78, 0.90, -0.2),
        ("max", 0.80, 0.80, 0.80, None),
        ("min", 0.40, 0.30, 0.20, 0.5),
        ("min", 0.20, 0.30, 0.40, None),
    ],
)
def test_a_gap_is_closed_only_where_the_teacher_is_better(
    mode: str, lower: float, student: float, teacher: float, expected: float | None
) -> None:
    found = {role: ("", value, None) for role, value in
             (("lower_bound", lower), ("student", student), ("teacher", teacher))}  # fmt: skip
    assert summary.gap_closed(found, mode) == expected


@pytest.mark.parametrize(("mean", "said"), [(0.7, "gained over"), (0.5, "lost against")])
def test_the_band_is_not_called_a_gain_where_the_student_lost(facts: Facts, mean: float, said: str) -> None:
    assert facts.evaluation is not None
    methods = {key: dict(about) for key, about in facts.evaluation["methods"].items()}
    methods["student"]["mean"] = mean
    changed = replace(facts, evaluation={**facts.evaluation, "methods": methods})
    (band,) = plots(summary.section(changed)).values()
    assert said in band.says


def test_a_gain_of_an_error_is_shown_as_the_error_that_fell() -> None:
    """evaluation.json counts gains upwards; beside the name of an error, +0.1 would read as a loss."""
    said = {"method": "student", "against": "lower_bound", "pairs": 6, "difference": 0.105, "interval": [0.08, 0.16],
            "effect_size": 2.5, "wins": 6, "ties": 0, "verdict": "helped", "more_seeds": None,
            "tests": {"wilcoxon": {"p": 0.03, "p_holm": 0.03}}}  # fmt: skip
    table = evaluation.comparisons_table(
        {"metric": "mse", "mode": "min", "confidence": 0.95, "methods": {}, "comparisons": [said]}
    )
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["difference"] == "-0.1050"
    assert row["95 % interval"] == "-0.1600 to -0.0800"
    assert "below zero is better" in table.says


def test_wide_intervals_have_room_between_the_bounds() -> None:
    """Few seeds: the student's interval reaches below its lower bound, and must not end at the figure's edge."""
    places = {
        "lower_bound": ("lower bound", 0.70, (0.62, 0.78)),
        "student": ("student", 0.72, (0.55, 0.89)),
        "teacher": ("upper bound", 0.80, None),
    }
    left, right = evaluation.between_bounds(places, "accuracy").layout.xaxis.range
    assert left < 0.55
    assert right > 0.89


def test_before_the_evaluation_the_summary_promises_nothing(framed: Facts) -> None:
    assert "Not evaluated yet" in summary.verdict(framed)
    assert summary.places(framed).keys() == {"student", "teacher"}
    (missing,) = evaluation.section(framed).missing
    assert missing.command == f"pkdray evaluate {framed.run.path}"
    assert "The test split has not been opened." in missing.why


def test_time_in_which_nothing_ran_does_not_count(facts: Facts) -> None:
    start = datetime(2026, 1, 1)
    spans = [(0, 10), (5, 12), (6, 7), (100, 103)]
    made = [
        FrozenTrial(
            number=index, trial_id=index, state=TrialState.COMPLETE, value=0.5, params={}, distributions={},
            datetime_start=start + timedelta(seconds=first), datetime_complete=start + timedelta(seconds=last),
            user_attrs={}, system_attrs={}, intermediate_values={},
        )
        for index, (first, last) in enumerate(spans)
    ]  # fmt: skip
    assert summary.elapsed(replace(facts, trials=made)) == 12 + 3


# Search


def test_the_history_is_the_ledgers(facts: Facts) -> None:
    figure = search.history(facts.trials, facts.mode, facts.metric)
    points, best = figure.data
    assert list(points.x) == [trial.number for trial in complete(facts)]
    assert list(points.y) == [trial.value for trial in complete(facts)]
    assert best.y[-1] == max(trial.value or 0.0 for trial in complete(facts))


def test_a_study_of_one_method_has_only_its_trials_in_their_order(facts: Facts) -> None:
    groups = search.by_method(facts)
    assert sum(map(len, groups.values())) == len(complete(facts))
    for method, numbers in groups.items():
        study = search.study_of(facts.trials, "max", numbers)
        assert {trial.params["method"] for trial in study.trials} == {method}
        assert [trial.value for trial in study.trials] == [facts.trials[number].value for number in sorted(numbers)]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_history_of_many_trials_keeps_every_one_that_was_the_best_so_far(
    facts: Facts, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search.history(facts.trials, mode, facts.metric).data[1]
    monkeypatch.setattr(search, "_MOST_POINTS", 3)
    points, best = search.history(facts.trials, mode, facts.metric).data
    steps = {x: y for x, y in zip(whole.x, whole.y, strict=True) if x in points.x}
    assert dict(zip(best.x, best.y, strict=True)) == steps, "the line runs as it would over all trials"
    assert set(whole.y) == set(best.y), "and misses no step of it"
    assert 3 <= len(points.x) < len(whole.x)
    assert {points.x[0], points.x[-1]} == {whole.x[0], whole.x[-1]}
    assert all(facts.trials[number].value == value for number, value in zip(points.x, points.y, strict=True))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_some_trials_are_the_best_and_a_draw_of_the_others(facts: Facts, mode: str) -> None:
    ranked = sorted(complete(facts), key=lambda trial: trial.value or 0.0, reverse=mode == "max")
    numbers = search.some(facts.trials, mode, 9)
    assert len(numbers) == 9
    assert {trial.number for trial in ranked[:4]} < set(numbers) <= {trial.number for trial in ranked}
    assert numbers == search.some(facts.trials, mode, 9)
    assert search.some(facts.trials, mode, 99) == [trial.number for trial in complete(facts)]


def test_pictures_of_thousands_of_trials_show_some_and_say_so(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plots(search.section(facts))
    assert not any("drawn" in block.says for block in whole.values())
    for limit in ("_MOST_POINTS", "_MOST_FOREST", "_MOST_GROUND"):
        monkeypatch.setattr(search, limit, 7)
    few = plots(search.section(facts))
    total = len(complete(facts))
    assert f"(7 of {total} trials are drawn.)" in few["Slices"].says
    assert all(len(plot.figure.data[0].x) <= 7 for plot in few["Slices"].plots)
    ground = few["Contours"].plots[0].figure.data[0]
    assert len(ground.x) <= 7 + 2, "a contour's grid has a line a value, and one beyond each end"
    assert "points are drawn" in few["Contours"].says
    assert f"{total}, 7 of them drawn" in few["Importance of parameters"].plots[0].name
    assert [plot.name for plot in few["Contours"].plots] == [plot.name for plot in whole["Contours"].plots]


def test_conditional_parameters_are_shared_within_a_method_alone(facts: Facts) -> None:
    everyone = search.shared_parameters(search.study_of(facts.trials, "max"))
    assert set(everyone) == {"method", "learning_rate"}
    numbers = search.by_method(facts)["pkdot"]
    assert {"epsilon", "top_k", "learning_rate"} <= set(
        search.shared_parameters(search.study_of(facts.trials, "max", numbers))
    )


def test_importances_are_optunas(facts: Facts) -> None:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = search.study_of(facts.trials, facts.mode)
    names = search.shared_parameters(study)
    (bars,) = search.importances(study, names).data
    expected = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=names)
    assert dict(zip(bars.y, bars.x, strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_in_parallel_coordinates_the_best_trial_is_the_strongest_line(facts: Facts, mode: str) -> None:
    study = search.study_of(facts.trials, mode, search.by_method(facts)["pkdot"])
    figure = search.parallel(study, ["epsilon", "top_k"], mode, facts.metric)
    scores = [line.y[0] for line in figure.data]
    widest = max(figure.data, key=lambda line: line.line.width)
    assert widest.y[0] == (max if mode == "max" else min)(scores)
    assert widest.line.color == STEPS[-1]
    assert len(figure.data) == len(search.by_method(facts)["pkdot"])


def test_pairs_are_those_that_trials_have_together(facts: Facts) -> None:
    found = {tuple(name.partition(" ")[0] for name in pair) for pair in search.pairs(facts.trials)}
    # theta is not searched; the alpha of pkd has nothing beside it.
    assert found == {
        ("method.alpha", "method.epsilon"),
        ("method.alpha", "method.top_k"),
        ("method.epsilon", "method.top_k"),
    }
    assert search.pairs(facts.trials, least=28) == []


def test_slices_leave_out_the_switches_of_a_subset(facts: Facts) -> None:
    names = [plot.name for plot in plots(search.section(facts))["Slices"].plots]
    assert names == ["alpha (pkd)", "alpha (pkdot|mt-pkdot)", "epsilon", "learning_rate", "method", "top_k"]
    method = plots(search.section(facts))["Slices"].plots[4].figure
    assert set(method.data[0].x) == {"pkd", "pkdot", "mt-pkdot"}


def test_two_parameters_that_end_alike_keep_their_paths() -> None:
    names = ["training.learning_rate", "method.learning_rate", "method.alpha"]
    assert search.short_names(names) == {
        "training.learning_rate": "training.learning_rate",
        "method.learning_rate": "method.learning_rate",
        "method.alpha": "alpha",
    }


# Learning curves


def test_curves_are_the_ledgers_and_the_last_epoch_is_of_the_file(facts: Facts) -> None:
    figure = plots(curves.section(facts))["Curves of the search"].plots[0].figure
    best = facts.complete[0]
    coloured = next(trace for trace in figure.data if trace.name.startswith(f"trial {best.number} "))
    assert list(coloured.x) == list(range(1, 10))
    assert dict(zip(list(coloured.x)[:8], list(coloured.y)[:8], strict=True)) == best.intermediate_values
    grey = next(trace for trace in figure.data if trace.name == "pruned")
    stopped = [trial for trial in facts.trials if trial.state == TrialState.PRUNED]
    assert [value for value in grey.y if value is not None] == [
        value for trial in stopped for _, value in sorted(trial.intermediate_values.items())
    ]
    assert list(grey.x).count(None) == len(stopped) - 1
    assert figure.data[-1] is coloured, "the best is drawn over the others"


# Teachers and similarity


def test_the_pool_shows_each_teachers_score_and_tells_adapters_apart(facts: Facts) -> None:
    assert facts.pool is not None
    figure = teachers.pool_scores(facts.pool["teachers"], facts.metric, 0.8)
    shown = {name: (trace.name, value) for trace in figure.data for name, value in zip(trace.y, trace.x, strict=True)}
    assert shown.keys() == facts.pool["teachers"].keys()
    for name, about in facts.pool["teachers"].items():
        assert shown[name] == (
            "adapter of one modality" if about["adapter_of"] else "teacher",
            about["validation"]["accuracy"],
        )


def test_the_gate_is_shown_for_the_groups_where_it_closed_most(facts: Facts) -> None:
    table = pd.DataFrame({"group": [f"g{i}" for i in range(7)], "gate_open": [0.5, 0.1, 0.9, 0.3, 1.0, 0.2, 0.7]})
    assert teachers.most_closed(table, 3)["group"].tolist() == ["g1", "g5", "g3"]
    assert teachers.most_closed(table, 7) is table
    blocks = plots(teachers.section(facts))
    assert [plot.name for plot in blocks["Teachers by subject"].plots] == ["gate", "shares of the teachers"]
    gate = blocks["Teachers by subject"].plots[0].figure
    expected = facts.negative_transfer.by_subject
    assert len(expected) == SUBJECTS
    assert sorted(gate.data[1].x) == pytest.approx(sorted(100 * expected["gate_open"]))


def test_matrices_share_one_range_of_colours(facts: Facts) -> None:
    maps = [plot.figure.data[0] for plot in plots(similarity.section(facts))["Similarity matrices"].plots]
    assert len(maps) == 3
    assert len({(one.zmin, one.zmax) for one in maps}) == 1
    np.testing.assert_allclose(np.array(maps[2].z, dtype=float), facts.similarity.after, atol=6e-4)


def test_one_row_has_nobody_to_be_like(facts: Facts) -> None:
    one = SimpleNamespace(
        labels=["calm"], teacher=np.eye(1), before=np.eye(1), after=np.eye(1), teacher_name="joint", total=1,
        agreement={"before": np.nan, "after": np.nan},
    )  # fmt: skip
    (missing,) = similarity.section(replace(facts, similarity=one)).missing
    assert "one labelled row" in missing.why


def test_captions_say_how_many_rows_were_drawn_and_of_how_many(facts: Facts) -> None:
    blocks = plots(similarity.section(facts))
    assert "(13 of 31 validation rows are drawn.)" in blocks["Similarity matrices"].says
    assert "(29 of 31 validation rows are drawn.)" in blocks["Embeddings in the plane"].says


@pytest.mark.parametrize(("fixture", "groups"), [("facts", len(CLASSES)), ("framed", 1)])
def test_embeddings_are_a_colour_a_class_or_a_shade_a_number(
    fixture: str, groups: int, request: pytest.FixtureRequest
) -> None:
    facts = request.getfixturevalue(fixture)
    spaces = plots(similarity.section(facts))["Embeddings in the plane"].plots
    assert [one.name for one in spaces] == ["teacher", "student before", "student after"]
    for one in spaces:
        assert len(one.figure.data) == groups
        assert sum(len(trace.x) for trace in one.figure.data) == 29


# Answers


def dataset_of(facts: Facts) -> Dataset:
    assert facts.dataset is not None
    return facts.dataset


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_confusion_matrix_is_sklearns(facts: Facts, split: str) -> None:
    dataset, table = dataset_of(facts), facts.predictions[split]
    found = answers.aligned(table, dataset)
    counts = answers.confusion(found.truth, found.answer, 4)
    rows = dataset.samples.set_index("sample_id")["target"]
    truth = [CLASSES[rows[sample]] for sample in table["sample_id"]]
    expected = confusion_matrix(truth, table["prediction"], labels=list(CLASSES))
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == len(table)
    assert counts.trace() < len(table)
    drawn = answers.confusion_figure(counts, CLASSES).data[0]
    np.testing.assert_array_equal(np.array(drawn.text), expected)


def test_frames_meet_their_labels_in_the_order_of_time(framed: Facts) -> None:
    dataset, table = dataset_of(framed), framed.predictions["val"]
    found = answers.aligned(table.sample(frac=1, random_state=3), dataset)
    targets = dict(zip(dataset.samples["sample_id"], dataset.targets(), strict=True))
    said = table.set_index(["sample_id", "frame"])[["valence", "arousal"]]
    sequences = found.places["sequence_id"]
    assert (sequences != sequences.shift()).sum() == sequences.nunique(), "a sequence is in one piece"
    samples = found.places["sample_id"].tolist()
    for start in range(0, len(samples), 6):
        assert len(set(samples[start : start + 6])) == 1
        np.testing.assert_array_equal(found.truth[start : start + 6], targets[samples[start]])
        expected = said.loc[samples[start]].loc[range(6)].to_numpy()
        np.testing.assert_allclose(found.answer[start : start + 6], expected)
    assert np.isnan(found.truth).any()


def test_agreement_is_the_ccc_of_the_labelled_frames(framed: Facts) -> None:
    found = answers.aligned(framed.predictions["val"], dataset_of(framed))
    kept = ~np.isnan(found.truth).any(axis=1)
    x, y = found.truth[kept].astype(np.float64), found.answer[kept].astype(np.float64)
    expected = 2 * ((x - x.mean(0)) * (y - y.mean(0))).mean(0) / (x.var(0) + y.var(0) + (x.mean(0) - y.mean(0)) ** 2)
    np.testing.assert_allclose(answers.agreement(found.truth, found.answer), expected, rtol=1e-6)
    assert np.isnan(answers.agreement(found.truth[:1], found.answer[:1])).all()


def test_time_lines_are_of_the_best_a_middling_and_the_worst_sequence(framed: Facts) -> None:
    found = answers.aligned(framed.predictions["val"], dataset_of(framed))
    rows = found.places.groupby("sequence_id").indices
    scores = {name: answers.agreement(found.truth[where], found.answer[where]).mean() for name, where in rows.items()}
    typical = answers.typical_sequences(found)
    assert [word for word, _, _ in typical] == ["best", "middling", "worst"]
    assert typical[0][1] == max(scores, key=lambda name: scores[name])
    assert typical[2][1] == min(scores, key=lambda name: scores[name])
    truth, answer = found.truth[rows[typical[0][1]], 1], found.answer[rows[typical[0][1]], 1]
    lines = answers.time_line(truth, answer).data
    assert [value is None for value in lines[0].y] == np.isnan(truth).tolist()
    assert list(lines[1].y) == pytest.approx(answer.tolist())


def test_a_single_sequence_is_neither_the_best_nor_the_worst(framed: Facts) -> None:
    found = answers.aligned(framed.predictions["val"], dataset_of(framed))
    first = found.places["sequence_id"] == found.places["sequence_id"].iloc[0]
    one = answers.Answers(found.places[first], found.truth[first], found.answer[first], found.names)
    assert [word for word, _, _ in answers.typical_sequences(one)] == ["only"]


def test_predictions_of_other_samples_are_said_so_and_not_drawn(facts: Facts) -> None:
    stranger = facts.predictions["val"].replace({"sample_id": {facts.predictions["val"]["sample_id"].iloc[0]: "s999"}})
    with pytest.raises(DatasetError, match="s999"):
        answers.aligned(stranger, dataset_of(facts))
    section = answers.section(replace(facts, predictions={"val": stranger}))
    assert "s999" in section.missing[0].why
    with pytest.raises(DatasetError, match="lack the column prediction"):
        answers.aligned(stranger.drop(columns="prediction"), dataset_of(facts))


# Cost, trials, places


def test_cost_leaves_out_whom_nobody_scored(facts: Facts) -> None:
    assert facts.costs is not None
    figure = cost.against(facts.costs, "macs", facts.metric)
    assert [trace.name for trace in figure.data] == ["teacher", "student (best trials)"]
    assert list(figure.data[0].x) == [900.0]
    assert len(tables(cost.section(facts))["Table of costs"].rows) == len(facts.costs)


def test_a_table_of_thousands_of_trials_has_the_best_and_says_where_the_others_are(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("_MOST_ROWS", "_MOST_BARS"):
        monkeypatch.setattr(trials, limit, 6)
    table = tables(trials.section(facts))["All trials"]
    best = sorted(complete(facts), key=lambda trial: -(trial.value or 0.0))[:6]
    assert [row[0].value for row in table.rows] == sorted(trial.number for trial in best)
    assert "6 of 27 trials" in table.says
    assert "trials.parquet" in table.says
    where = plots(trials.where_section(facts))["Time line"]
    assert sum(len(bars.x) for bars in where.plots[0].figure.data) == 6
    assert "(6 of 27 trials are drawn.)" in where.says


def test_of_many_failures_the_last_are_told(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_MOST_FAILURES", 2)
    failed = [facts.trials[5]] * 3
    table = tables(trials.section(replace(facts, trials=failed)))["Failures"]
    assert len(table.rows) == 2
    assert table.says.startswith("3 trials failed. These are the last 2")


def test_every_trial_is_in_the_table_with_what_it_drew(facts: Facts) -> None:
    table = tables(trials.section(facts))["All trials"]
    assert len(table.rows) == 27
    for trial, row in zip(facts.trials, table.rows, strict=True):
        said = dict(zip(table.columns, row, strict=True))
        assert said["trial"].value == trial.number
        assert said["accuracy"] == trial.value
        assert said["learning_rate"].value == trial.params["training.learning_rate"]
        epsilon = said["epsilon"]
        assert epsilon.value == trial.params.get("method.epsilon")
    failed = tables(trials.section(facts))["Failures"]
    assert failed.rows == [[5, facts.trials[5].params["method.name"], "loss <b>diverged</b> & stopped"]]


def test_the_time_line_has_every_trial_where_it_ran_and_none_over_another(facts: Facts) -> None:
    figure = trials.timeline(facts.trials)
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    for trace in figure.data:
        for start, length, row in zip(trace.base, trace.x, trace.y, strict=True):
            begin = datetime.fromisoformat(start)
            spans.setdefault(row, []).append((begin, begin + timedelta(milliseconds=length)))
    assert sum(map(len, spans.values())) == 27
    assert {row.partition(" ·")[0] for row in spans} == {"node0", "node1", "computer not recorded #1"}
    for lane in spans.values():
        lane.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(lane))


def test_time_spent_is_told_by_place_for_search_and_evaluation(facts: Facts) -> None:
    table = tables(trials.where_section(facts))["Time spent"]
    rows = {(row[0], row[1]): row[2] for row in table.rows}
    # Four methods: three of three seeds, and the teacher, each of two seconds.
    assert rows[("evaluation", "node7 · cpu")] == 10
    assert sum(many for (what, _), many in rows.items() if what == "search") == 27
    assert "Not counted: teachers" in table.says
    assert "whatever was not chosen" in table.says


def test_a_trial_whose_computer_is_not_known_is_no_place(facts: Facts) -> None:
    says = plots(trials.where_section(facts))["Time line"].says
    assert "2 places took part; of 1 trial no computer is recorded." in says
    (unknown,) = [one for one in facts.trials if trials.place_of(one) == "computer not recorded"]
    alone = plots(trials.where_section(replace(facts, trials=[unknown])))["Time line"].says
    assert "place" not in alone
    assert "Of 1 trial no computer is recorded." in alone


def test_time_spent_is_that_of_the_process_and_of_every_training_of_the_evaluation(
    facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables(trials.where_section(facts))["Time spent"]
    search = sum(row[3].value for row in table.rows if row[0] == "search")
    said = [summary_of(trial)["seconds"] for trial in facts.trials if summary_of(trial)]
    (unknown,) = [trial for trial in facts.trials if not summary_of(trial)]
    assert unknown.datetime_complete is not None
    assert unknown.datetime_start is not None
    waited = (unknown.datetime_complete - unknown.datetime_start).total_seconds()
    assert search == pytest.approx(sum(said) + waited)

    shutil.copytree(facts.run.path, tmp_path / "tiny")
    for index, text in enumerate(
        ['{"seconds": 1.5, "node": "a", "device": "cpu"}', '{"seconds": 2, "node": "a", "device": "cpu"}', "[", "{}"]
    ):
        (tmp_path / "tiny" / "evaluation" / str(index)).mkdir(parents=True)
        (tmp_path / "tiny" / "evaluation" / str(index) / "trained.json").write_text(text)
    table = tables(trials.where_section(replace(facts, run=Run(tmp_path / "tiny"))))["Time spent"]
    (row,) = [row for row in table.rows if row[0] == "evaluation"]
    assert (row[1], row[2], row[3].value) == ("a · cpu", 2, 3.5)
    assert "chosen" not in table.says
    # Of a run on remote storage this machine may have some of them.
    monkeypatch.setattr("pkdray.mirrors.uri_of", lambda _: "s3://bucket/tiny")
    table = tables(trials.where_section(replace(facts, run=Run(tmp_path / "tiny"))))["Time spent"]
    assert {row[2] for row in table.rows if row[0] == "evaluation"} == {10}
    assert "whatever was not chosen" in table.says


# The look


def test_every_colour_of_a_figure_has_a_dark_twin(facts: Facts, framed: Facts) -> None:
    used = set()
    for one in (facts, framed):
        for section in sections(one):
            for block in section.blocks:
                if isinstance(block, Plots):
                    for plot in block.plots:
                        used |= set(re.findall(r"#[0-9a-f]{6}\b", themed(plot.figure).to_json()))
    assert used
    assert used <= DARK.keys()


def test_what_is_left_out_says_why(framed: Facts) -> None:
    gone = ("dataset", "pool", "negative_transfer", "similarity", "projections", "costs")
    bare = replace(
        framed, trials=[], best=None, dataset=None, plan=None, pool=None, predictions={}, curves={}, costs=None,
        negative_transfer=None, similarity=None, projections=None,
        faults=dict.fromkeys(gone, "It is gone."),
    )  # fmt: skip
    parts = sections(bare)
    assert sum(part.figures for part in parts) == 0
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Missing):
                assert block.why, f"{part.key}: {block.title}"
    assert [part.key for part in parts if "It is gone." in {one.why for one in part.missing}] == [
        "teachers", "similarity", "answers", "cost",
    ]  # fmt: skip
