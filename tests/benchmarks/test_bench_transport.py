from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "losses" / "golden.json").read_text(encoding="utf-8"))["divergence"]


def module(name):
    # The benchmarks are not installed: they are found from the top of the checkout alone.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        return importlib.import_module(f"benchmarks.{name}")


bench = module("bench_transport")
cases = module("transport.cases")
competitors = module("transport.competitors")
reference = module("transport.reference")
report = module("transport.report")
timing = module("transport.timing")


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def golden_cloud(rows, columns, phase):
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return torch.from_numpy(0.4 * np.sin(1.3 * i + 2.17 * j + 0.31 * i * j + phase))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['n']}-{case['m']}-{case['epsilon']}")
def test_the_reference_agrees_with_the_golden_values(case):
    x, y = golden_cloud(case["n"], case["k"], 0.0), golden_cloud(case["m"], case["k"], 0.7)
    truth = reference.divergence(x, y, case["epsilon"])
    assert truth.value == pytest.approx(case["value"], rel=1e-8)
    # The file has nine decimals.
    assert (truth.gradient - torch.tensor(case["gradient"], dtype=torch.float64)).abs().max() < 1e-9


@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_the_reference_converges_where_sinkhorn_creeps(case):
    x, y = cases.clouds(case, 37, 11, 1)
    truth = reference.divergence(x[0], y[0], 0.001)
    assert truth.residual <= reference.GOAL
    # A step along the gradient moves the value by what the gradient says.
    step = 1e-5 * truth.gradient / truth.gradient.norm()
    up, down = (reference.divergence(x[0], y[0].double() + sign * step, 0.001).value for sign in (1, -1))
    assert (up - down) / 2e-5 == pytest.approx(truth.gradient.norm().item(), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Sinkhorn did not converge")
@pytest.mark.parametrize("competitor", competitors.COMPETITORS, ids=lambda competitor: competitor.name)
def test_everybody_computes_the_same_quantity(competitor):
    lanes = 3 if competitor.batched else 1
    x, y = cases.clouds(cases.Case("random", "least_similar"), 29, 11, lanes)
    truths = [reference.divergence(x[lane], y[lane], 1.0) for lane in range(lanes)]
    # The last rung of a ladder is the most exact one, and the slowest.
    setting = competitor.settings[min(4, len(competitor.settings) - 1)]
    value, gradient = competitors.value_and_gradient(lambda a, b: competitor.solve(a, b, 1.0, setting), x, y)
    assert value.shape == (lanes,)
    assert gradient.shape == y.shape
    value_error, gradient_error = timing.relative_errors(value, gradient, truths)
    assert value_error < 1e-2
    assert gradient_error < 1e-2


def test_a_lane_is_the_same_whatever_the_count_of_lanes():
    one, many = (cases.clouds(cases.CASES[0], 23, 7, lanes) for lanes in (1, 3))
    for side in (0, 1):
        torch.testing.assert_close(many[side][:1], one[side])
    assert not torch.equal(many[0][0], many[0][1])


def test_relative_errors_take_the_worst_lane_and_survive_nan():
    truth = reference.Truth(2.0, torch.tensor([[3.0, 4.0]], dtype=torch.float64), 0.0)
    value, gradient = torch.tensor([2.0, 2.5]), torch.tensor([[[3.0, 4.0]], [[3.0, 4.5]]])
    assert timing.relative_errors(value, gradient, [truth, truth]) == pytest.approx((0.25, 0.1))
    assert timing.relative_errors(value, gradient, [truth]) == (0.0, 0.0)
    assert timing.relative_errors(value * math.nan, gradient, [truth]) == (timing.CAP, 0.0)


def test_a_ladder_is_climbed_to_the_first_rung_that_meets_the_bar():
    solved = []

    def solve(x, y, epsilon, setting):
        solved.append(setting)
        return y.square().sum((1, 2)) * setting

    competitor = competitors.Competitor("rungs", solve, (0.5, 1.0, 2.0))
    x = torch.ones(1, 5, 3)
    clouds = dict.fromkeys(cases.CASES[:2], (x, x))
    truths = {case: [reference.Truth(15.0, 2 * x[0].double(), 0.0)] for case in clouds}
    (entrant,) = timing.run_cell([competitor], clouds, truths, epsilon=1.0, lanes=1, repeats=1, limit=9.0, before={})
    assert entrant.setting == 1.0
    assert entrant.meets_bar()
    # The first rung is left at its first miss.
    assert solved == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_tiny_run_writes_all_that_it_measured(tmp_path, capsys):
    out, table = tmp_path / "results.json", tmp_path / "results.md"
    grid = "--quick --batch 17 --k 30 --epsilon 0.1 --lanes 1 3 --repeats 1 --limit 0.05"
    bench.main([*grid.split(), "--out", str(out), "--markdown", str(table)])
    results = json.loads(out.read_text(encoding="utf-8"))
    assert set(results) == {"meta", "rows", "aims"}
    assert results["meta"]["torch"] == torch.__version__
    assert results["meta"]["threads"] == 1
    names = {competitor.name for competitor in competitors.COMPETITORS}
    assert {row["competitor"] for row in results["rows"] if row["lanes"] == 1} == names
    assert {row["competitor"] for row in results["rows"] if row["lanes"] == 3} == names | {"geomloss-one"}
    for row in results["rows"]:
        assert row["batch"] == 17
        assert row["reference_residual"] <= reference.GOAL
        assert 0 < row["ms_min"] <= row["ms_median"]
        assert row["ratio"] > 0
        assert 1 <= len(row["cases"]) <= len(cases.CASES)
        assert row["value_error"] == max(case["value_error"] for case in row["cases"].values())
    base = {row["lanes"]: row["ratio"] for row in results["rows"] if row["competitor"] in ("geomloss", "geomloss-one")}
    assert base[1] == 1
    assert all({"aim", "bar", "measured", "met"} == set(aim) for aim in results["aims"])
    assert table.read_text(encoding="utf-8").strip() == capsys.readouterr().out.strip()


def test_only_keeps_geomloss_for_the_ratios():
    options = bench.parsed(["--quick", "--only", "ours", "--batch", "11", "--k", "5", "--lanes", "1", "--repeats", "1"])
    cells = list(bench.run(options))
    assert [[row["competitor"] for row in rows] for rows in cells] == [["ours", "geomloss"]] * 2


def test_an_unknown_competitor_is_named(capsys):
    with pytest.raises(SystemExit):
        bench.parsed(["--only", "ours,oursw"])
    assert "oursw is not a competitor. Choose from ours, geomloss" in capsys.readouterr().err


def row(ratio=0.3, epsilon=0.01, gradient_error=1e-3, **changes):
    case = {"ms": [2.0, 1.0], "value_error": 1e-4, "gradient_error": gradient_error}
    return {
        "competitor": "ours", "batch": 128, "k": 30, "lanes": 1, "epsilon": epsilon, "ratio": ratio,
        "setting": None, "ms_min": 1.0, "gradient_error": gradient_error,
        "meets_bar": gradient_error <= 1e-2, "cases": {"late/least": case},
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "met"), [({}, True), ({"ratio": 0.41}, False), ({"gradient_error": 0.02}, False)], ids=str
)
def test_a_time_counts_only_with_its_accuracy(changes, met):
    found = {aim["aim"]: aim["met"] for aim in report.aims([row(**changes)])}
    assert found["time, B 128, k 30, epsilon 0.01, 1 lane"] is met
    assert found["time, B 512, k 30, epsilon 0.01, 1 lane"] is None


def test_the_aim_at_small_epsilon_forgives_three_in_a_hundred():
    def met(*errors):
        found = report.aims([row(epsilon=0.001, gradient_error=error) for error in errors])
        return [aim["met"] for aim in found if aim["aim"] == "gradient, epsilon .001"]

    assert met(*[1e-3] * 97, *[4e-2] * 3) == [True, True]
    assert met(*[1e-3] * 96, *[4e-2] * 4) == [False, True]
    assert met(*[1e-3] * 99, 6e-2) == [True, False]
