"""The search space: what is drawn when, what the grid holds, and that a trial reads back what it drew."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial, TrialState

from pkdray.config import Parameter, load_config, override
from pkdray.errors import ConfigError
from pkdray.search.samplers import make_sampler
from pkdray.search.space import flatten, grid, grid_size, parameter_names, suggest
from pkdray.shipped import find_yaml, shipped

DEMO = Path(__file__).parents[2] / "search_spaces" / "mfeat_demo.yaml"


def space_of(**paths: Any) -> dict[str, list[Parameter]]:
    return {
        path.replace("__", "."): [
            Parameter.model_validate(one) for one in (value if isinstance(value, list) else [value])
        ]
        for path, value in paths.items()
    }


METHODS = space_of(
    method__name={"choice": ["kl", "pkd", "pkdot"]},
    method__alpha=[
        {"float": [0.25, 0.75], "when": {"method.name": ["kl", "pkd"]}},
        {"float": [0.01, 10.0], "log": True, "when": {"method.name": "pkdot"}},
    ],
    method__temperature={"float": [1, 6], "step": 0.5, "when": {"method.name": "kl"}},
    method__top_k={"int": [5, 17], "step": 3, "when": {"method.name": "pkdot"}},
    training__learning_rate={"float": [1e-4, 1e-2], "log": True},
)


@pytest.fixture(autouse=True)
def _no_optuna_noise() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draws(
    space: Mapping[str, list[Parameter]], number: int, fixed: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    return [suggest(space, study.ask(), fixed or {}) for _ in range(number)]


def test_conditional_parameters_are_there_exactly_when_their_condition_holds() -> None:
    seen = draws(METHODS, 60)
    assert {values["method.name"] for values in seen} == {"kl", "pkd", "pkdot"}
    for values in seen:
        assert ("method.temperature" in values) == (values["method.name"] == "kl")
        assert ("method.top_k" in values) == (values["method.name"] == "pkdot")
        assert "method.alpha" in values
        assert "training.learning_rate" in values


@pytest.mark.parametrize("name", shipped())
def test_whatever_a_shipped_space_draws_is_a_trial(name: str) -> None:
    config = load_config(find_yaml(name))
    seen = draws(config.search.space, 40, flatten(config.model_dump(mode="json", by_alias=True)))
    methods = {override(config, values).method.name for values in seen}
    (searched,) = config.search.space.get("method.name", [Parameter(choice=[config.method.name])])
    assert methods == set(searched.choice or [])


def test_values_stay_in_their_domains() -> None:
    for values in draws(METHODS, 200):
        low, high = (0.01, 10.0) if values["method.name"] == "pkdot" else (0.25, 0.75)
        assert low <= values["method.alpha"] <= high
        assert 1e-4 <= values["training.learning_rate"] <= 1e-2
        assert values.get("method.temperature", 1.0) in [1 + n / 2 for n in range(11)]
        assert values.get("method.top_k", 5) in (5, 8, 11, 14, 17)
        assert isinstance(values.get("method.top_k", 5), int)


def test_a_logarithmic_range_is_drawn_by_its_logarithm() -> None:
    rates = [values["training.learning_rate"] for values in draws(METHODS, 300)]
    assert 0.4 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.6


def test_an_indivisible_step_stops_below_the_end_without_a_warning() -> None:
    space = space_of(a={"float": [0, 1], "step": 0.3}, b={"int": [1, 10], "step": 4})
    seen = draws(space, 60)
    assert {round(values["a"], 6) for values in seen} == {0.0, 0.3, 0.6, 0.9}
    assert {values["b"] for values in seen} == {1, 5, 9}


def test_decimal_steps_reach_the_upper_end() -> None:
    space = space_of(a={"float": [0, 0.3], "step": 0.1})
    assert [params["a"] for params in grid(space, {})] == [0.0, 0.1, 0.2, 0.3]
    assert {round(values["a"], 6) for values in draws(space, 60)} == {0.0, 0.1, 0.2, 0.3}


def test_when_may_refer_to_a_fixed_field_and_to_several() -> None:
    space = space_of(
        a={"int": [1, 3], "when": {"student.tnet.training": ["frozen", "joint"], "training.optimizer": "adam"}},
        b={"int": [1, 3], "when": {"nowhere": 1}},
    )
    assert [*draws(space, 1, {"student.tnet.training": "joint", "training.optimizer": "adam"})[0]] == ["a"]
    assert draws(space, 1, {"student.tnet.training": "joint", "training.optimizer": "sgd"}) == [{}]


def test_an_inactive_parameter_fulfils_no_condition_whatever_is_fixed() -> None:
    space = space_of(
        a={"choice": ["on", "off"]},
        b={"choice": ["x"], "when": {"a": "on"}},
        c={"int": [7, 7], "when": {"b": "x"}},
    )
    seen = draws(space, 30, {"b": "x"})
    assert all(("c" in values) == (values["a"] == "on") for values in seen)
    assert len({values["a"] for values in seen}) == 2


def test_the_first_alternative_that_holds_is_used() -> None:
    space = space_of(
        a={"choice": ["x", "y", "z"]},
        b=[{"int": [1, 1], "when": {"a": "x"}}, {"int": [2, 2], "when": {"a": ["x", "y"]}}, {"int": [3, 3]}],
    )
    assert {(values["a"], values["b"]) for values in draws(space, 40)} == {("x", 1), ("y", 2), ("z", 3)}


def test_names_are_stable_and_say_the_condition() -> None:
    assert parameter_names(METHODS) == [
        "method.name",
        "method.alpha (method.name=kl|pkd)",
        "method.alpha (method.name=pkdot)",
        "method.temperature",
        "method.top_k",
        "training.learning_rate",
    ]
    backwards = dict(reversed(METHODS.items()))
    assert parameter_names(backwards) == parameter_names(METHODS)
    assert draws(backwards, 9) == draws(METHODS, 9)


def test_names_of_the_switches_of_a_subset() -> None:
    space = space_of(a={"choice": [1, 2]}, b=[{"subset": ["p", "q r"], "when": {"a": 1}}, {"int": [1, 2]}])
    assert parameter_names(space) == ["a", "b[p] (a=1)", "b[q r] (a=1)", "b (otherwise)"]


def test_a_circle_of_conditions_is_named() -> None:
    space = space_of(
        a={"int": [1, 2], "when": {"c": 1}}, b={"int": [1, 2], "when": {"a": 1}}, c={"int": [1, 2], "when": {"b": 1}}
    )
    for use in (parameter_names, lambda space: suggest(space, FixedTrial({}), {}), lambda space: grid_size(space, {})):
        with pytest.raises(ConfigError, match="a -> c -> b -> a"):
            use(space)


def test_two_alternatives_with_the_same_conditions_are_refused() -> None:
    space = space_of(a=[{"int": [1, 2], "when": {"f": 1}}, {"int": [3, 4], "when": {"f": [1]}}])
    with pytest.raises(ConfigError, match=r"space\.a: two alternatives have the same conditions \(f=1\)"):
        parameter_names(space)


@pytest.mark.parametrize("choice", [[[64], [64, 32], []], [None, [1]], [1, True], [{"b": 1, "a": 2}, "x"]])
def test_choices_that_optuna_cannot_store_or_tell_apart_come_back_as_they_were(choice: list[Any]) -> None:
    space = space_of(a={"choice": choice})
    # A warning of Optuna's about an unsupported type would be an error here.
    seen = [values["a"] for values in draws(space, 40)]
    assert {repr(value) for value in seen} == {repr(value) for value in choice}
    points = [suggest(space, FixedTrial(params), {})["a"] for params in grid(space, {})]
    assert [repr(point) for point in points] == [repr(value) for value in choice]


def test_scalar_choices_stay_raw_for_the_dashboard() -> None:
    space = space_of(a={"choice": ["mlp", None, 3, 0.5, False]})
    assert [params["a"] for params in grid(space, {})] == ["mlp", None, 3, 0.5, False]


def test_a_drawn_list_is_the_trials_own() -> None:
    space = space_of(a={"choice": [[64]]})
    draws(space, 1)[0]["a"].append(1)
    assert draws(space, 1) == [{"a": [64]}]


@given(size=st.integers(1, 7), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_subset_keeps_its_order_its_minimum_and_what_was_drawn(size: int, data: st.DataObject) -> None:
    names = [f"t{n}" for n in range(size)][::-1]
    minimum = data.draw(st.integers(1, size))
    on = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    space = space_of(a={"subset": names, "min": minimum})
    params = {f"a[{name}]": is_on for name, is_on in zip(names, on, strict=True)}
    value = suggest(space, FixedTrial(params), {})["a"]
    drawn = list(itertools.compress(names, on))
    assert value == [name for name in names if name in value]
    assert set(drawn) <= set(value)
    assert len(value) == max(minimum, len(drawn))


def test_the_repair_of_a_subset_spreads_over_the_names() -> None:
    names = ["p", "q", "r", "s", "t"]
    space = space_of(a={"subset": names, "min": 2})
    counts: Counter[str] = Counter()
    for on in itertools.product([False, True], repeat=5):
        params = {f"a[{name}]": is_on for name, is_on in zip(names, on, strict=True)}
        counts.update(suggest(space, FixedTrial(params), {})["a"])
    # Sixteen each are drawn; five singletons add one each, and the empty draw adds the first two.
    assert counts == {"p": 18, "q": 18, "r": 17, "s": 17, "t": 17}


# The grid


def test_the_grid_of_a_conditional_space_has_the_hand_counted_points() -> None:
    # kl: 3 alphas x 11 temperatures; pkd: 3 alphas; pkdot: 3 alphas x 5 top_k. Each x 3 learning rates.
    points = list(grid(METHODS, {}))
    assert len(points) == grid_size(METHODS, {}) == (3 * 11 + 3 + 3 * 5) * 3 == 153
    assert len({tuple(sorted(point.items())) for point in points}) == 153
    assert {point["method.name"] for point in points if "method.temperature" in point} == {"kl"}
    logarithmic = {point["method.alpha (method.name=pkdot)"] for point in points if point["method.name"] == "pkdot"}
    assert sorted(logarithmic) == pytest.approx([0.01, 10**-0.5, 10.0], rel=1e-12)
    assert {min(logarithmic), max(logarithmic)} == {0.01, 10.0}


def test_the_grid_of_subsets_and_of_few_integers() -> None:
    space = space_of(a={"subset": ["p", "q", "r", "s"], "min": 3}, b={"int": [1, 2], "points": 5})
    points = list(grid(space, {}))
    assert len(points) == grid_size(space, {}) == (4 + 1) * 2
    for point in points:
        value = suggest(space, FixedTrial(point), {})["a"]
        assert {f"a[{name}]" for name in value} == {name for name, is_on in point.items() if is_on is True}


def test_the_grid_counts_huge_spaces_and_begins_on_them_at_once() -> None:
    space = space_of(
        a={"subset": [f"t{n}" for n in range(60)], "min": 2},
        b={"float": [0, 1], "step": 1e-4},
        c={"choice": list(range(1000))},
        d={"int": [0, 10**6], "step": 2, "when": {"c": [3, 4, 5000]}},
    )
    assert grid_size(space, {}) == (2**60 - 61) * 10_001 * (998 + 2 * 500_001)
    assert next(grid(space, {}))["b"] == 0.0


def test_the_grid_respects_fixed_fields_and_an_empty_space() -> None:
    space = space_of(a={"int": [1, 3], "when": {"f": 1}})
    assert (grid_size(space, {"f": 1}), grid_size(space, {"f": 2}), grid_size({}, {})) == (3, 1, 1)
    assert list(grid(space, {"f": 2})) == list(grid({}, {})) == [{}]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_size_of_the_grid_is_its_length(data: st.DataObject) -> None:
    domains = st.sampled_from(
        [
            {"choice": [1, 2, "x"]},
            {"choice": [[1], [2, 3]]},
            {"int": [1, 4], "points": 2},
            {"int": [1, 3], "step": 1},
            {"subset": ["p", "q"]},
            {"float": [1, 2], "points": 2},
        ]
    )
    paths = ["d", "a", "c", "b"]
    space = {}
    for index, path in enumerate(paths):
        alternatives = []
        for _ in range(data.draw(st.integers(1, 2))):
            others = data.draw(st.lists(st.sampled_from(["fixed", *paths[:index]]), unique=True, max_size=2))
            when = {other: data.draw(st.sampled_from([1, [1, 2], "x", ["x", 2], 4])) for other in others}
            one = Parameter.model_validate({**data.draw(domains), "when": when})
            if one.when not in [other.when for other in alternatives]:
                alternatives.append(one)
        space[path] = alternatives
    fixed = {"fixed": data.draw(st.sampled_from([1, "x"]))}
    try:
        names = set(parameter_names(space))
    except ConfigError:  # [1] and 1 are the same condition
        return
    points = list(grid(space, fixed))
    assert len(points) == len({tuple(sorted(point.items())) for point in points}) == grid_size(space, fixed)
    for point in points:
        assert set(point) <= names
        # A point is exactly what its trial asks for: nothing is missing, nothing is left over.
        asked = FixedTrial(point)
        suggest(space, asked, fixed)
        assert set(asked.distributions) == set(point)


def test_enqueued_points_are_the_trials() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    points = list(itertools.islice(grid(METHODS, {}), 0, None, 11))
    for point in points:
        study.enqueue_trial(point)
    for point in points:
        trial = study.ask()
        suggest(METHODS, trial, {})
        assert trial.params == point


# Resuming


# Optuna's in-memory storage is left out on purpose: it never looks again below the last row that it found waiting, so a
# row that is put back there is lost. A ledger in a file has no such shortcut.


def sqlite(folder: Path) -> Callable[[], optuna.Study]:
    # A new storage each time: what another process would see after a crash.
    url = f"sqlite:///{folder}/study.db"
    return lambda: optuna.create_study(study_name="s", storage=optuna.storages.RDBStorage(url), load_if_exists=True)


def sqlite_in_process(folder: Path) -> Callable[[], optuna.Study]:
    study = sqlite(folder)()
    return lambda: study


def journal(folder: Path) -> Callable[[], optuna.Study]:
    def load() -> optuna.Study:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
        return optuna.create_study(study_name="s", storage=optuna.storages.JournalStorage(backend), load_if_exists=True)

    return load


def ask(study: optuna.Study, kind: str = "tpe") -> optuna.Trial:
    trial = study.ask()
    study.sampler = make_sampler(kind, seed=3, number=trial.number, startup_trials=4)
    return trial


def put_back(study: optuna.Study, number: int) -> None:
    study._storage.set_trial_state_values(study.trials[number]._trial_id, TrialState.WAITING)


@pytest.mark.parametrize("storage", [sqlite, sqlite_in_process, journal])
@pytest.mark.parametrize("kind", ["tpe", "random", "nsga2"])
def test_a_trial_put_back_to_waiting_comes_again_with_its_number_and_values(
    storage: Callable[[Path], Callable[[], optuna.Study]], kind: str, tmp_path: Path
) -> None:
    config = load_config(DEMO)
    space, fixed = config.search.space, flatten(config.model_dump(mode="json", by_alias=True))
    load = storage(tmp_path)
    study = load()
    for number in range(5):
        values = suggest(space, ask(study, kind), fixed)
        study.tell(number, values["training.learning_rate"])
    first, second = ask(study, kind), ask(study, kind)
    drawn = [suggest(space, first, fixed), suggest(space, second, fixed)]
    first.report(0.5, step=1)
    first.set_user_attr("folder", "5")

    resumed = load()
    put_back(resumed, 6)
    put_back(resumed, 5)
    again = [ask(resumed, kind), ask(resumed, kind)]
    assert [trial.number for trial in again] == [5, 6], "the oldest comes first"
    assert [suggest(space, trial, fixed) for trial in again] == drawn
    rows = resumed.trials
    assert len(rows) == 7
    assert rows[5].state == TrialState.RUNNING
    assert rows[5].intermediate_values == {1: 0.5}
    assert rows[5].user_attrs == {"folder": "5"}
    for trial, value in zip(again, (3.0, 4.0), strict=True):
        resumed.tell(trial, value)
    assert [trial.value for trial in load().trials[5:]] == [3.0, 4.0]
    assert [suggest(space, trial, fixed) for trial in load().trials[5:]] == drawn


@pytest.mark.parametrize("storage", [sqlite, journal])
def test_a_trial_that_died_while_it_drew_keeps_what_it_had_drawn(
    storage: Callable[[Path], Callable[[], optuna.Study]], tmp_path: Path
) -> None:
    load = storage(tmp_path)
    whole = suggest(METHODS, ask(optuna.create_study()), {})
    study = load()
    ask(study).suggest_categorical("method.name", ["kl", "pkd", "pkdot"])
    resumed = load()
    put_back(resumed, 0)
    trial = ask(resumed)
    values = suggest(METHODS, trial, {})
    assert trial.number == 0
    assert values["method.name"] == whole["method.name"]
    assert set(values) == set(whole)


def test_resumed_trials_come_before_enqueued_ones_and_new_ones_last(tmp_path: Path) -> None:
    load = sqlite(tmp_path)
    study = load()
    drawn = suggest(METHODS, ask(study), {})
    point = next(grid(METHODS, {}))
    study.enqueue_trial(point)
    put_back(study, 0)
    resumed = load()
    trials = [ask(resumed) for _ in range(3)]
    values = [suggest(METHODS, trial, {}) for trial in trials]
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert values[0] == drawn
    assert trials[1].params == point


def test_a_finished_row_cannot_be_put_back() -> None:
    study = optuna.create_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        put_back(study, 0)


def test_the_demo_space_draws_what_the_configuration_takes() -> None:
    from pkdray.config import override

    config = load_config(DEMO)
    fixed = flatten(config.model_dump(mode="json", by_alias=True))
    for values in draws(config.search.space, 30, fixed):
        made = override(config, values)
        assert made.method.name == values["method.name"]
        if made.method.name == "mt-pkdot":
            assert made.method.teachers == values["method.teachers"]
            assert len(values["method.teachers"]) >= 2
