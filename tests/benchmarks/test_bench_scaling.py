"""The study that the scaling benchmark copies together is one that a sweep could have left."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from optuna.trial import TrialState

from pkdray.search.run import fixed_values
from pkdray.search.space import suggest

with pytest.MonkeyPatch.context() as patch:
    # The benchmarks are not installed: they are found from the top of the checkout alone.
    patch.syspath_prepend(str(Path(__file__).parents[2]))
    made = importlib.import_module("benchmarks.scaling.study")


def test_copied_trials_are_whole_differ_and_lie_inside_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "SEEDLINGS", 10)
    run, plan = made.make_run(tmp_path, 23, running=5)
    trials = run.ledger().trials()
    assert [trial.number for trial in trials] == list(range(23))
    assert [trial.number for trial in trials if trial.state == TrialState.RUNNING] == [18, 19, 20, 21, 22]
    for trial in trials:
        for name, value in trial.params.items():
            domain = trial.distributions[name]
            assert domain._contains(domain.to_internal_repr(value)), (name, value)
        assert trial.intermediate_values
        assert (trial.state == TrialState.COMPLETE) == ("summary" in trial.user_attrs)
        if trial.number >= 10:
            first = trials[trial.number % 10]
            assert (
                suggest(plan.config.search.space, trial, fixed_values(plan.config)).keys()
                == suggest(plan.config.search.space, first, fixed_values(plan.config)).keys()
            )
            assert trial.params["training.learning_rate"] != first.params["training.learning_rate"]
    assert run.ledger().counts().running == 5
