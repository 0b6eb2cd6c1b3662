"""From a YAML file to a Config: every error at once, each with its path, its line and the allowed values."""

from __future__ import annotations

import copy
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pkdray.config.methods import CARRIED_OVER, METHODS
from pkdray.config.sections import Config
from pkdray.errors import ConfigError

Location = tuple[str | int, ...]


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read one study from a YAML file; ``name`` defaults to the file's name.

    Args:
        path: the YAML file.
        overrides: dotted path -> value, applied on top (``--set``).

    Raises:
        ConfigError: the file is missing or not YAML, or says something that cannot be meant. All faults are listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.", cure="Check the path.") from error
    data, lines = _parse(text, path)
    data.setdefault("name", path.stem)
    return build_config(apply_overrides(data, overrides or {}), source=str(path), lines=lines)


def build_config(
    data: Mapping[str, Any], *, source: str = "the configuration", lines: Mapping[Location, int] | None = None
) -> Config:
    """Validate plain data as a Config, the search space included.

    Raises:
        ConfigError: with one detail a fault: path, line where known, what is wrong, what is allowed.
    """
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise _config_error(_faults(error), source, lines or {}) from error
    faults = list(_space_faults(config))
    if faults:
        raise _config_error(faults, source, lines or {})
    return config


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``--set a.b=1`` to ``{"a.b": 1}``; values are YAML.

    Example:
        >>> parse_assignments(["training.epochs=5", "method.teachers=[joint, fac]"])
        {'training.epochs': 5, 'method.teachers': ['joint', 'fac']}
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment!r} is no assignment.", cure="Write --set path.to.field=value.")
        try:
            values[path.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--set {assignment!r}: the value is not YAML.", cure="Quote it for the shell."
            ) from error
    return values


def apply_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted paths in plain data. A new ``method.name`` starts from that method's defaults.

    A method's hyperparameters mean nothing to another method (alpha is a share for kl and a weight for pkdot), so only
    the teachers and their selection are carried over.
    """
    result = copy.deepcopy(dict(data))
    # The name first: it clears the fields that the other overrides then set.
    for path in sorted(overrides, key=lambda path: path != "method.name"):
        if path.startswith("search.space."):
            # The keys of the space are dotted paths themselves.
            result.setdefault("search", {}).setdefault("space", {})[path.removeprefix("search.space.")] = overrides[
                path
            ]
        else:
            _set(result, path, overrides[path])
    return result


def override(config: Config, overrides: Mapping[str, Any], *, source: str = "the overridden configuration") -> Config:
    """The config with some fields replaced, validated again.

    Raises:
        ConfigError: a path that does not exist or a value out of its domain.
    """
    return build_config(apply_overrides(config.model_dump(mode="json", by_alias=True), overrides), source=source)


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    here: Any = data
    for depth, key in enumerate(parents):
        step: Any = int(key) if isinstance(here, list) and key.isdigit() else key
        try:
            if isinstance(here, dict) and here.get(step) is None:
                here[step] = {}
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = None
        if not isinstance(here, dict | list):
            raise ConfigError(
                f"{path}: {'.'.join(parents[: depth + 1])} has no fields.", cure="Check the path against the YAML."
            )
    if isinstance(here, list):
        if not last.isdigit() or int(last) >= len(here):
            raise ConfigError(f"{path}: {last} is not one of the {len(here)} entries.", cure="Count from 0.")
        here[int(last)] = value
        return
    if path == "method.name" and here.get("name") != value:
        fields = METHODS[value].model_fields if value in METHODS else {}
        for key in list(here):
            if key not in CARRIED_OVER or key not in fields:
                del here[key]
    here[last] = value


def _parse(text: str, path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path} is not YAML{where}: {getattr(error, 'problem', error)}.", cure="Check indentation and brackets."
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no mapping.", cure="Start from one of the files in search_spaces/.")
    lines: dict[Location, int] = {}
    twice: list[str] = []
    _walk_lines(root, (), lines, twice)
    if twice:
        raise ConfigError(f"{path} names a key twice.", details=twice, cure="Keep one of each.")
    return data, lines


def _walk_lines(node: yaml.Node | None, location: Location, lines: dict[Location, int], twice: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*location, key.value)
            if place in lines:
                twice.append(f"{_dotted(place)}: lines {lines[place]} and {key.start_mark.line + 1}")
            lines[place] = key.start_mark.line + 1
            _walk_lines(value, place, lines, twice)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*location, index)] = value.start_mark.line + 1
            _walk_lines(value, (*location, index), lines, twice)


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _config_error(faults: Iterable[tuple[Location, str]], source: str, lines: Mapping[Location, int]) -> ConfigError:
    details = []
    for location, message in faults:
        where = _dotted(location)
        line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
        details.append(f"{where}{f' (line {line})' if line and where else ''}: {message}" if where else message)
    count = "one fault" if len(details) == 1 else f"{len(details)} faults"
    return ConfigError(f"{source} has {count}:", details=details, cure="Mend them and run the command again.")


def _faults(error: ValidationError) -> Iterable[tuple[Location, str]]:
    for item in error.errors():
        location, model = _resolve(item["loc"])
        kind, received = item["type"], item["input"]
        if kind == "extra_forbidden":
            known = _field_names(model)
            near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            yield location, f"unknown key; {hint}"
        elif kind == "missing":
            yield location, "is required"
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            tag = received.get("name") if isinstance(received, dict) else received
            near = difflib.get_close_matches(str(tag), METHODS, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            yield (*location, "name"), f"must be one of {', '.join(METHODS)}; got {tag!r}{hint}"
        elif kind == "value_error":
            yield location, str(item["ctx"]["error"])
        else:
            shown = repr(received)
            yield location, f"{_lower(item['msg'])} (got {shown if len(shown) < 80 else shown[:77] + '...'})"


def _lower(message: str) -> str:
    return message.replace("Input should be", "must be", 1)


def _resolve(location: Location) -> tuple[Location, Any]:
    """Walk the models along a pydantic location; union tags, which are not in the YAML, are left out of the path."""
    model: Any = Config
    path: list[str | int] = []
    for index, key in enumerate(location):
        tags = {kind.model_fields["name"].annotation.__args__[0]: kind for kind in METHODS.values()}  # type: ignore[union-attr]
        if path == ["method"] and index == 1 and key in tags:
            model = tags[str(key)]
            continue
        path.append(key)
        if index == len(location) - 1:
            break
        model = _field_model(model, key)
    return tuple(path), model


def _field_model(model: Any, key: str | int) -> Any:
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            if key in (name, field.alias):
                return _strip(field.annotation)
        return None
    # A list or a dict of models: the key is an index or a name.
    arguments = typing.get_args(model)
    return _strip(arguments[-1]) if arguments else None


def _strip(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not type(None)]
        return options[0] if len(options) == 1 else annotation
    return annotation


def _field_names(model: Any) -> list[str]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _space_faults(config: Config) -> Iterable[tuple[Location, str]]:
    """Check that every searched path exists and takes every value that the space can propose."""
    plain = config.model_dump(mode="json", by_alias=True)
    bare = {**plain, "search": {**plain["search"], "space": {}}}
    for path, parameters in config.search.space.items():
        if path.split(".")[0] in ("search", "resources", "name", "dataset", "seed"):
            yield ("search", "space", path), "cannot be searched: it belongs to the whole run, not to a trial"
            continue
        if path.split(".")[0] == "teachers":
            yield (
                ("search", "space", path),
                "cannot be searched: teachers are trained once, before the sweep; search method.teachers instead",
            )
            continue
        for index, parameter in enumerate(parameters):
            place: Location = ("search", "space", path, *([index] if len(parameters) > 1 else []))
            unknown = [
                other for other in parameter.when if other not in config.search.space and _get(plain, other) is _ABSENT
            ]
            if unknown:
                yield place, f"`when` names {', '.join(unknown)}, which is neither searched nor a field"
                continue
            seen: set[str] = set()
            for value in parameter.extremes():
                for conditions in _condition_sets(parameter.when):
                    try:
                        Config.model_validate(apply_overrides(bare, {**conditions, path: value}))
                    except (ValidationError, ConfigError) as error:
                        messages = (
                            [f"{_dotted(where)}: {message}" if where else message for where, message in _faults(error)]
                            if isinstance(error, ValidationError)
                            else [error.what]
                        )
                        for message in messages:
                            if message not in seen:
                                seen.add(message)
                                yield place, f"may propose {value!r}: {message}"


_ABSENT = object()


def _get(data: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(data, dict) or key not in data:
            return _ABSENT
        data = data[key]
    return data


def _condition_sets(when: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of values that meets ``when``; a domain must hold under each of them."""
    combinations: list[dict[str, Any]] = [{}]
    for path, allowed in when.items():
        values = allowed if isinstance(allowed, list) else [allowed]
        combinations = [{**combination, path: value} for combination in combinations for value in values]
    return combinations
