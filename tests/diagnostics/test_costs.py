"""Cost beside value: of teachers, of trials' students and of the lower bound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pkdray.diagnostics import cost_table, costs
from pkdray.evaluate import FORMAT
from pkdray.search.run import sampler_for


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_table, "_SECONDS", 0.001)


def evaluated(folder: Path, **lower: object) -> None:
    (folder / "evaluation.json").write_text(json.dumps({"format": FORMAT, "methods": {"lower_bound": lower}}))


def test_teachers_students_and_the_bound_stand_beside_what_they_are_worth(small_dataset, trained):
    made = trained(small_dataset(), {})
    found = costs(made.run, made.plan, [0]).set_index("who")
    assert found.index.tolist() == [
        "teacher joint",
        "teacher face",
        "teacher voice",
        "teacher heart",
        "trial 0",
        "lower bound",
    ]
    # Closed forms: encoders 5, 7 and 3 -> 9, fusion 27 -> 11, head 11 -> 4; see test_profile for the rest.
    assert found.loc["teacher joint", ["parameters", "macs"]].tolist() == [518, 476]
    assert found.loc["trial 0", ["parameters", "macs"]].tolist() == [737, 676]
    # Without a T-Net: 5 -> 10, 10 -> 11, 11 -> 4.
    assert found.loc["lower bound", ["parameters", "macs"]].tolist() == [60 + 121 + 48, 50 + 110 + 44]
    assert found["trial"].dropna().tolist() == [0]
    assert (found["latency_ms"] > 0).all()
    assert found.loc["trial 0", "value"] == made.run.ledger().best().value
    joint = made.pool.read()["teachers"]["joint"]["validation"]["accuracy"]
    assert found.loc["teacher joint", "value"] == joint
    assert np.isnan(found.loc["lower bound", "value"])
    evaluated(made.run.path, validation=[0.5, 0.75])
    assert costs(made.run, made.plan, []).set_index("who").loc["lower bound", "value"] == 0.625
    # The bound may have the network that the search found: 5 -> 13, 13 -> 11, 11 -> 4.
    found_network = {"method.name": "supervised", "student.tnet.training": "none", "student.encoder.hidden": [13]}
    evaluated(made.run.path, validation=[0.5], configuration=found_network)
    bound = costs(made.run, made.plan, []).set_index("who").loc["lower bound"]
    assert bound[["parameters", "macs"]].tolist() == [78 + 154 + 48, 65 + 143 + 44]
    (made.run.path / "evaluation.json").write_text("{")
    assert np.isnan(costs(made.run, made.plan, []).set_index("who").loc["lower bound", "value"])


@pytest.mark.parametrize("tnet", ["none", "frozen"])
def test_the_same_network_is_measured_once(tnet, small_dataset, trained, monkeypatch):
    made = trained(small_dataset("regression", "frames"), {"student.tnet.training": tnet})
    ledger = made.run.ledger()
    ledger.complete(ledger.ask(sampler_for(made.plan.config)).number, 0.25, {"epochs": 1})
    timed: list[str] = []

    def latency(plan, config):
        timed.append(config.student.tnet.training)
        return float(len(timed))

    monkeypatch.setattr(cost_table, "student_latency", latency)
    found = costs(made.run, made.plan, [0, 1]).set_index("who")
    assert timed == (["none"] if tnet == "none" else ["frozen", "none"])
    assert found.loc["trial 0", "macs"] == found.loc["trial 1", "macs"]
    assert found.loc["trial 1", "value"] == 0.25
    assert (found.loc["lower bound", "macs"] == found.loc["trial 0", "macs"]) == (tnet == "none")


@pytest.mark.parametrize("kind", ["sequences", "frames"])
def test_teachers_of_sequences_and_their_adapters_are_timed_too(kind, small_dataset, trained):
    task = "regression" if kind == "frames" else "classification"
    made = trained(small_dataset(task, kind), {"teachers.encoders": {"voice": {"kind": "gru", "hidden": [9]}}})
    found = costs(made.run, made.plan, []).set_index("who")
    assert (found["latency_ms"] > 0).all()
    assert len(found) == 5
