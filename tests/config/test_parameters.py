"""One searched parameter: which writings are meant, and what is said about the others."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pkdray.config.parameters import Parameter, evaluation_order
from pkdray.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "kind", "extremes"),
    [
        ({"float": [0.5, 2]}, "float", [0.5, 2.0]),
        ({"float": [1e-4, 1e-2], "log": True}, "float", [1e-4, 1e-2]),
        ({"float": [0, 1], "step": 0.25}, "float", [0.0, 1.0]),
        ({"float": [3, 3]}, "float", [3.0, 3.0]),
        ({"int": [8, 64], "log": True}, "int", [8, 64]),
        ({"int": [-3, 9], "step": 3}, "int", [-3, 9]),
        ({"choice": ["a", None, [1, 2]]}, "choice", ["a", None, [1, 2]]),
        ({"subset": ["a", "b", "c"], "min": 3}, "subset", [["a", "b", "c"]]),
    ],
)
def test_kinds_and_their_extremes(written: dict[str, Any], kind: str, extremes: list[Any]) -> None:
    parameter = Parameter.model_validate(written)
    assert parameter.kind == kind
    assert parameter.extremes() == extremes
    assert Parameter.model_validate(parameter.model_dump(mode="json", by_alias=True)) == parameter


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, r"needs exactly one of float, int, choice, subset \(got none\)"),
        ({"log": True}, r"\(got none\)"),
        ({"float": [0, 1], "choice": [1]}, r"\(got float, choice\)"),
        ({"float": [2, 1]}, r"\[2.0, 1.0\] is not a range: write the lower end first"),
        ({"float": [1, float("inf")]}, "finite"),
        ({"float": [float("nan"), 1]}, "finite"),
        ({"float": [1]}, "Field required"),
        ({"float": [0, 1], "log": True}, r"a logarithmic range starts above 0 \(got 0.0\)"),
        ({"float": [1, 2], "log": True, "step": 0.5}, "`log` and `step` exclude each other"),
        ({"float": [1, 2], "step": 0}, "greater than 0"),
        ({"int": [1, 9], "step": float("inf")}, "finite"),
        ({"int": [0, 9], "log": True}, "starts above 0"),
        ({"int": [1, 9], "step": 1.5}, r"the step of an int is a whole number \(got 1.5\)"),
        ({"int": [1, 2.5]}, "valid integer"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": ["a", "b", "a"]}, "choice names a value twice"),
        ({"choice": [1, 2], "log": True}, "`log` and `step` go with float and int, not with choice"),
        ({"subset": ["a"], "step": 1}, "not with subset"),
        ({"subset": ["a", "a"]}, "subset names a value twice"),
        ({"subset": ["a", "b"], "min": 3}, "min is 3, but there are only 2 to choose from"),
        ({"subset": ["a"], "min": 0}, "greater than or equal to 1"),
        ({"float": [0, 1], "min": 2}, "`min` goes with subset"),
        ({"choice": [1, 2, 3], "min": 2}, "`min` goes with subset"),
        ({"float": [0, 1], "points": 1}, "greater than or equal to 2"),
        ({"float": [0, 1], "when": {"a": {"b": 1}}}, r"a must be a value or a list of values \(got {'b': 1}\)"),
        ({"float": [0, 1], "when": {"a": [[1]]}}, r"a must be a value or a list of values \(got \[1\]\)"),
        ({"float": [0, 1], "when": "a"}, "valid dictionary"),
        ({"flaot": [0, 1], "int": [0, 1]}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Parameter.model_validate(written)


def test_conditions_hold_when_all_of_them_do() -> None:
    parameter = Parameter.model_validate({"int": [1, 2], "when": {"a": ["x", "y"], "b": 3, "c": None}})
    assert parameter.holds({"a": "y", "b": 3, "c": None})
    assert not parameter.holds({"a": "z", "b": 3, "c": None})
    assert not parameter.holds({"a": "y", "b": 3}), "an absent value is not null"
    assert not parameter.holds({"a": ["x"], "b": 3, "c": None})
    assert Parameter.model_validate({"int": [1, 2]}).holds({})


def test_a_choice_has_no_range() -> None:
    with pytest.raises(ValueError, match="choice has no range"):
        _ = Parameter(choice=[1]).range


def test_the_order_follows_the_conditions_and_else_the_alphabet() -> None:
    def after(*others: str) -> list[Parameter]:
        return [Parameter(choice=[1], when=dict.fromkeys(others, 1))]

    space = {"a": after("d", "fixed"), "b": after(), "c": after("a"), "d": after("b")}
    assert evaluation_order(space) == ["b", "d", "a", "c"]
    assert evaluation_order(dict(reversed(space.items()))) == ["b", "d", "a", "c"]
    with pytest.raises(ConfigError, match="a -> a"):
        evaluation_order({"a": after("a")})
