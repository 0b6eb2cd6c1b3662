"""From the search space of a YAML to Optuna: what a trial draws, and every point of the grid.

A path of the configuration (``method.alpha``) becomes one Optuna parameter, or several where the YAML gives several
alternatives, or one a name for a ``subset``. Parameters whose conditions do not hold are not drawn at all, so a trial's
row in the study holds what the trial used and nothing else.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from optuna.trial import BaseTrial

from pkdray.config import Config
from pkdray.config.parameters import Parameter, evaluation_order
from pkdray.errors import ConfigError

Space = Mapping[str, Sequence[Parameter]]


def suggest(space: Space, trial: BaseTrial, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the parameters that are active in a trial.

    Paths are visited so that a condition is known before it is asked about, and alphabetically otherwise: the draws do
    not depend on the order of the keys in a file. Of several alternatives the first whose conditions hold is used. A
    condition on a searched path that is itself inactive does not hold, whatever the fixed value under that path.

    A ``subset`` is one true-or-false parameter a name. Where fewer than ``min`` are on, the left-out names are added in
    the listed order, starting behind the last one that is on and wrapping round. The repair depends on the drawn values
    alone, so the objective stays a function of what the sampler sees: a model-based sampler such as TPE learns on it
    as on any function with plateaus. Starting behind the last one spreads the repaired draws over all names; starting
    at the top would, of three names with ``min: 2``, give the first two half of all random draws instead of 3/8.

    Args:
        space: path -> alternatives, as in ``config.search.space``.
        trial: a running Optuna trial; or a ``FixedTrial`` or ``FrozenTrial``, to read stored parameters back.
        fixed: flat dotted path -> value of the configuration under the search (see ``flatten``).

    Returns:
        Path -> value, active parameters only. A trial whose parameters are stored already gets those values again.

    Raises:
        ConfigError: the conditions of the space go round in a circle.

    Example:
        >>> import optuna
        >>> space = {"method.teachers": [Parameter(subset=["joint", "face", "voice"], min=2)]}
        >>> off = {"method.teachers[joint]": False, "method.teachers[voice]": False}
        >>> suggest(space, optuna.trial.FixedTrial({**off, "method.teachers[face]": True}), {})
        {'method.teachers': ['face', 'voice']}
    """
    values: dict[str, Any] = {}
    for path in evaluation_order(space):
        index = _active(path, space, values, fixed)
        if index is not None:
            values[path] = _draw(space[path][index], trial, _name(path, index, space))
    return values


def grid(space: Space, fixed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every distinct point of the grid, as Optuna parameters for ``study.enqueue_trial``.

    A range gives ``points`` values with both ends (evenly spaced, by logarithm where ``log``), or every step where it
    has one; a choice all its values; a subset every subset of at least ``min`` names. Inactive parameters are absent,
    so no two points are the same trial. Ask ``grid_size`` first: the product grows fast.

    Example:
        >>> list(grid({"training.learning_rate": [Parameter(float=(1e-4, 1e-2), log=True)]}, {}))
        [{'training.learning_rate': 0.0001}, {'training.learning_rate': 0.001}, {'training.learning_rate': 0.01}]
    """
    return _walk(evaluation_order(space), space, {}, fixed)


def grid_size(space: Space, fixed: Mapping[str, Any]) -> int:
    """How many points ``grid`` yields, counted without making them.

    Example:
        >>> grid_size({"method.teachers": [Parameter(subset=[f"t{n}" for n in range(100)])]}, {}) == 2**100 - 1
        True
    """
    return _count(evaluation_order(space), space, {}, fixed)


def parameter_names(space: Space) -> list[str]:
    """The names of all Optuna parameters that trials of this space may have, in the order of ``suggest``.

    Example:
        >>> when = {"when": {"method.name": ["kl", "pkd"]}}
        >>> parameter_names({"method.alpha": [Parameter(float=(0, 1), **when), Parameter(float=(0, 9))]})
        ['method.alpha (method.name=kl|pkd)', 'method.alpha (otherwise)']
    """
    names = []
    for path in evaluation_order(space):
        for index, parameter in enumerate(space[path]):
            name = _name(path, index, space)
            names += [name] if parameter.subset is None else _switches(name, parameter.subset)
    return names


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to flat dotted paths; lists stay whole, since a space addresses a list as one value.

    Example:
        >>> flatten({"training": {"epochs": 5}, "student": {"encoder": {"hidden": [64, 32]}}})
        {'training.epochs': 5, 'student.encoder.hidden': [64, 32]}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Conditions and names


def _active(path: str, space: Space, values: Mapping[str, Any], fixed: Mapping[str, Any]) -> int | None:
    """The index of the alternative in use, or None; a searched path counts by what was drawn, never as fixed."""
    for index, parameter in enumerate(space[path]):
        known = {other: values if other in space else fixed for other in parameter.when}
        if parameter.holds({other: source[other] for other, source in known.items() if other in source}):
            return index
    return None


def _name(path: str, index: int, space: Space) -> str:
    """The Optuna name of an alternative: a study refuses two different sets of choices under one name."""
    alternatives = space[path]
    if len(alternatives) == 1:
        return path
    labels = [_label(parameter) for parameter in alternatives]
    if labels[index] in labels[:index]:
        raise ConfigError(
            f"search.space.{path}: two alternatives have the same conditions ({labels[index]}).",
            cure="Give each alternative a `when` of its own; the first that holds is used.",
        )
    return f"{path} ({labels[index]})"


def _label(parameter: Parameter) -> str:
    conditions = []
    for path, allowed in sorted(parameter.when.items()):
        values = allowed if isinstance(allowed, list) else [allowed]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        conditions.append(f"{path}={'|'.join(texts)}")
    return ", ".join(conditions) or "otherwise"


def _switches(name: str, names: Iterable[str]) -> list[str]:
    """The true-or-false parameters of a subset: ``method.teachers[joint] (method.name=kl)``."""
    path, space, label = name.partition(" ")
    return [f"{path}[{one}]{space}{label}" for one in names]


# One parameter


def _draw(parameter: Parameter, trial: BaseTrial, name: str) -> Any:
    if parameter.choice is not None:
        options = _options(parameter.choice)
        drawn = trial.suggest_categorical(name, options)
        # A copy, because a list inside the configuration must not change with what a trial does to its own.
        return copy.deepcopy(parameter.choice[_position(options, drawn)])
    if parameter.subset is not None:
        on = [bool(trial.suggest_categorical(switch, [False, True])) for switch in _switches(name, parameter.subset)]
        return [one for one, kept in zip(parameter.subset, _repaired(on, parameter.min), strict=True) if kept]
    low, high = parameter.range
    if parameter.step is not None:
        # Optuna would shorten an indivisible range itself, with a warning at every trial.
        high = _at(low, parameter.step, _steps(low, high, parameter.step) - 1)
    if parameter.kind == "int":
        return trial.suggest_int(name, int(low), int(high), step=int(parameter.step or 1), log=parameter.log)
    return trial.suggest_float(name, low, high, step=parameter.step, log=parameter.log)


def _repaired(on: Sequence[bool], minimum: int) -> list[bool]:
    kept = list(on)
    last = max((index for index, is_on in enumerate(on) if is_on), default=-1)
    for offset in range(1, len(kept) + 1):
        if sum(kept) >= minimum:
            break
        kept[(last + offset) % len(kept)] = True
    return kept


def _options(values: Sequence[Any]) -> list[Any]:
    """Choices for Optuna: raw where it can store them and tell them apart (1 == True), otherwise all as JSON."""
    scalars = all(value is None or isinstance(value, bool | int | float | str) for value in values)
    if scalars and all(first != second for first, second in itertools.combinations(values, 2)):
        return list(values)
    return [json.dumps(value, default=str, sort_keys=True) for value in values]


def _position(options: Sequence[Any], drawn: Any) -> int:
    # Identity as well, for a choice of not-a-number.
    return next(index for index, option in enumerate(options) if option is drawn or option == drawn)


def _steps(low: float, high: float, step: float) -> int:
    """How many values a stepped range has; in decimals, as written, since .3 / .1 is 2.9999999999999996."""
    return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step))) + 1


def _at(low: float, step: float, index: int) -> float:
    return float(Decimal(str(low)) + index * Decimal(str(step)))


# The grid


def _points(parameter: Parameter) -> list[float]:
    """The grid's values of a range."""
    low, high = parameter.range
    if parameter.step is not None:
        points = [_at(low, parameter.step, index) for index in range(_steps(low, high, parameter.step))]
    else:
        spaced = (np.geomspace if parameter.log else np.linspace)(low, high, parameter.points).tolist()
        points = [low, *spaced[1:-1], high]
    if parameter.kind == "int":
        points = [round(point) for point in points]
    # Few integers, or both ends equal: a value would come several times.
    return sorted(set(points))


def _entries(parameter: Parameter, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The grid's values of one parameter, each with the Optuna parameters that stand for it."""
    if parameter.choice is not None:
        for value, option in zip(parameter.choice, _options(parameter.choice), strict=True):
            yield value, {name: option}
    elif parameter.subset is not None:
        for on in itertools.product([True, False], repeat=len(parameter.subset)):
            if sum(on) >= parameter.min:
                value = list(itertools.compress(parameter.subset, on))
                yield value, dict(zip(_switches(name, parameter.subset), on, strict=True))
    else:
        for point in _points(parameter):
            yield point, {name: point}


def _walk(
    paths: Sequence[str], space: Space, values: Mapping[str, Any], fixed: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    if not paths:
        yield {}
        return
    path, rest = paths[0], paths[1:]
    index = _active(path, space, values, fixed)
    if index is None:
        yield from _walk(rest, space, values, fixed)
        return
    for value, params in _entries(space[path][index], _name(path, index, space)):
        for others in _walk(rest, space, {**values, path: value}, fixed):
            yield params | others


def _count(paths: Sequence[str], space: Space, values: Mapping[str, Any], fixed: Mapping[str, Any]) -> int:
    if not paths:
        return 1
    path, rest = paths[0], paths[1:]
    index = _active(path, space, values, fixed)
    if index is None:
        return _count(rest, space, values, fixed)
    parameter = space[path][index]
    total = _cardinality(parameter)
    # Values that no condition names all lead to the same branches: count the rest of the space once for all of them.
    named = [value for value in _named(path, space) if parameter.subset is None and _has(parameter, value)]
    branches = sum(_count(rest, space, {**values, path: value}, fixed) for value in named)
    others = total - len(named)
    return branches + (others * _count(rest, space, {**values, path: _OTHER}, fixed) if others else 0)


_OTHER = object()


def _named(path: str, space: Space) -> list[Any]:
    """The values of ``path`` that any condition names, each once."""
    named: list[Any] = []
    for parameter in itertools.chain.from_iterable(space.values()):
        allowed = parameter.when.get(path, [])
        for value in allowed if isinstance(allowed, list) else [allowed]:
            if value not in named:
                named.append(value)
    return named


def _has(parameter: Parameter, value: Any) -> bool:
    return value in (parameter.choice if parameter.choice is not None else _points(parameter))


def _cardinality(parameter: Parameter) -> int:
    if parameter.choice is not None:
        return len(parameter.choice)
    if parameter.subset is not None:
        size = len(parameter.subset)
        return sum(math.comb(size, kept) for kept in range(parameter.min, size + 1))
    if parameter.step is not None:
        return _steps(*parameter.range, parameter.step)
    return len(_points(parameter))


def longest_training(config: Config) -> int:
    """The epochs of the longest training that the space may propose."""
    parameters = config.search.space.get("training.epochs", [])
    searched = [int(value) for parameter in parameters for value in parameter.extremes()]
    return max([config.training.epochs, *searched])
