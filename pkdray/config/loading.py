"""From a YAML file to a Config: every error at once, each with its path, its line and the allowed values."""

from __future__ import annotations

import copy
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from pkdray.config.methods import CARRIED_OVER, LEARNED, METHODS, NUMBER, PRESETS, DistillingMethod
from pkdray.config.parameters import Parameter, evaluation_order
from pkdray.config.sections import AUTO, Config
from pkdray.errors import ConfigError

Location = tuple[str | int, ...]


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read one study from a YAML file; ``name`` defaults to the file's name.

    A run's run.yaml, which holds its study beside what it was made of, is read as that study.

    Args:
        path: the YAML file.
        overrides: dotted path -> value, applied on top (``--set``).

    Raises:
        ConfigError: the file is missing or not YAML, or says something that cannot be meant. All faults are listed.
    """
    data, lines = read_yaml(path)
    recorded = isinstance(data.get("config"), dict) and "dataset_fingerprint" in data
    if recorded:
        data, lines = data["config"], {place[1:]: line for place, line in lines.items() if place[:1] == ("config",)}
    data.setdefault("name", path.stem)
    # A fault in an overridden value is not at the line that it replaced.
    replaced = [_location(place) for place in overrides or {}]
    origins: dict[Location, int | str] = {
        place: line for place, line in lines.items() if not any(place[: len(new)] == new for new in replaced)
    }
    origins.update(dict.fromkeys(replaced, "--set"))
    whole = apply_overrides(data, overrides or {}, resolved=recorded)
    return build_config(whole, source=str(path), lines=origins)


def read_yaml(path: Path, ready: str = "search_spaces/") -> tuple[dict[str, Any], dict[Location, int]]:
    """A YAML file's mapping, and the line of each of its keys and entries.

    Args:
        path: the YAML file.
        ready: where examples of its kind are, for the error.

    Raises:
        ConfigError: the file is missing or not YAML, holds no mapping, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.", cure="Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8 (byte {error.start}).", cure="Save it as UTF-8.") from error
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path} is not YAML{where}: {getattr(error, 'problem', error)}.", cure="Check indentation and brackets."
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no mapping.", cure=f"Start from one of the files in {ready}.")
    lines: dict[Location, int] = {}
    twice: list[str] = []
    _walk_lines(root, (), lines, twice)
    if twice:
        raise ConfigError(f"{path} names a key twice.", details=twice, cure="Keep one of each.")
    return data, lines


def build_config(
    data: Mapping[str, Any], *, source: str = "the configuration", lines: Mapping[Location, int | str] | None = None
) -> Config:
    """Validate plain data as a Config, the search space included.

    Args:
        data: nested plain data, as from YAML.
        source: what the data is called in an error.
        lines: location -> the line, or another origin, that an error names.

    Raises:
        ConfigError: with one detail a fault: path, line where known, what is wrong, what is allowed.
    """
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise config_error(_faults(error, data), source, lines or {}) from error
    faults = list(_space_faults(config))
    if faults:
        raise config_error(faults, source, lines or {})
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
            values[path.strip()] = _Loader(text).get_single_data()
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--set {assignment!r}: the value is not YAML.", cure="Quote it for the shell."
            ) from error
    return values


def apply_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any], *, resolved: bool = False) -> dict[str, Any]:
    """Set dotted paths in plain data. A new ``method.name`` starts from that method's defaults.

    A method's hyperparameters mean nothing to another method (alpha is a share for kl and a weight for pkdot), so only
    the teachers, their selection and the preset are carried over.

    Args:
        data: nested plain data.
        overrides: dotted path -> value.
        resolved: the data holds every field, as run.yaml does, so that it no longer tells what was given from what a
            preset filled in. A new ``method.preset`` then replaces the fields that hold the old preset's values.
    """
    result = copy.deepcopy(dict(data))
    method = result.get("method")
    if resolved and "method.preset" in overrides and isinstance(method, dict):
        result["method"] = _without_preset(method)
    # The name first: it clears the fields that the other overrides then set.
    for path in sorted(overrides, key=lambda path: path != "method.name"):
        if path.startswith("search.space."):
            # The keys of the space are dotted paths themselves.
            _set(result, path, ["search", "space", path.removeprefix("search.space.")], overrides[path])
        else:
            _set(result, path, path.split("."), overrides[path])
    return result


def override(config: Config, overrides: Mapping[str, Any], *, source: str = "the overridden configuration") -> Config:
    """The config with some fields replaced, validated again.

    Raises:
        ConfigError: a path that does not exist or a value out of its domain.
    """
    plain = config.model_dump(mode="json", by_alias=True)
    return build_config(apply_overrides(plain, overrides, resolved=True), source=source)


def _without_preset(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's fields without those that its preset filled in, or would have."""
    kind = METHODS.get(method.get("name", ""))
    if kind is None or not issubclass(kind, DistillingMethod) or method.get("preset") not in PRESETS:
        return dict(method)
    filled = kind.preset_values(method["preset"])
    return {key: value for key, value in method.items() if key not in filled or value != filled[key]}


def _set(data: dict[str, Any], path: str, keys: list[str], value: Any) -> None:
    *parents, last = keys
    here: Any = data
    model: Any = Config
    for depth, key in enumerate(parents):
        step: Any = int(key) if isinstance(here, list) and key.isdigit() else key
        try:
            if isinstance(here, dict) and here.get(step) is None:
                here[step] = _default(model, step)
            here, model = here[step], _field_model(model, step)
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
        fields = METHODS[value].model_fields if isinstance(value, str) and value in METHODS else {}
        for key in list(here):
            if key not in CARRIED_OVER or key not in fields:
                del here[key]
    here[last] = value


def _default(model: Any, key: str | int) -> Any:
    """What a section holds that the YAML leaves out: to set one field of it is to keep the others."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or key not in model.model_fields:
        return {}
    field = model.model_fields[str(key)]
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    plain = TypeAdapter(Any).dump_python(value, mode="json", by_alias=True)
    return plain if isinstance(plain, dict | list) else {}


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, in which ``1e-3`` is a number, as YAML 1.2 and everybody's eyes have it, and no text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


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


def _location(path: str) -> Location:
    """Where a dotted override lands: digits are indices, and the keys of the space are dotted themselves."""
    if path.startswith("search.space."):
        return ("search", "space", path.removeprefix("search.space."))
    return tuple(int(key) if key.isdigit() else key for key in path.split("."))


def config_error(
    faults: Iterable[tuple[Location, str]], source: str, lines: Mapping[Location, int | str]
) -> ConfigError:
    """One error of all faults, each with its place, the line of it where known, and what is wrong."""
    details = []
    for location, message in faults:
        where = _dotted(location)
        origin = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
        at = "" if origin is None else f" (line {origin})" if isinstance(origin, int) else f" ({origin})"
        details.append(f"{where}{at}: {message}" if where else message)
    count = "one fault" if len(details) == 1 else f"{len(details)} faults"
    return ConfigError(f"{source} has {count}:", details=details, cure="Mend them and run the command again.")


def _faults(error: ValidationError, data: Mapping[str, Any]) -> Iterable[tuple[Location, str]]:
    for item in error.errors():
        location, model = _resolve(item["loc"])
        if location[:2] == ("search", "space") and not isinstance(_step(data, location[:3]), list):
            # A single alternative is written without a list, so its index is not in the YAML.
            location = (*location[:3], *location[4:])
        kind, received = item["type"], item["input"]
        if kind == "extra_forbidden":
            known, key = _field_names(model), str(location[-1])
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.55)
            owners = [
                name for name, method in METHODS.items() if location[0] == "method" and key in method.model_fields
            ]
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            if owners:
                hint = f"it belongs to {', '.join(owners)}"
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
        elif kind in ("float_type", "float_parsing", "int_type", "int_parsing") and item["loc"][-1] == NUMBER:
            word = AUTO if location[0] == "resources" else LEARNED
            yield location, f"must be a number or '{word}' (got {_shown(received)})"
        else:
            yield location, f"{_lower(item['msg'])} (got {_shown(received)})"


def _shown(received: Any) -> str:
    shown = repr(received)
    return shown if len(shown) < 80 else shown[:77] + "..."


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
        if path[:1] in (["method"], ["resources"]) and key in (NUMBER, LEARNED, AUTO):
            break
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
    space = config.search.space
    plain = config.model_dump(mode="json", by_alias=True)
    bare = {**plain, "search": {**plain["search"], "space": {}}}
    try:
        evaluation_order(space)
    except ConfigError as error:
        yield ("search", "space"), error.what
    whole: set[str] = set()
    for path, parameters in space.items():
        if path.split(".")[0] in ("search", "resources", "name", "dataset", "seed", "task_loss"):
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
            unknown = [other for other in parameter.when if other not in space and _get(plain, other) is _ABSENT]
            if unknown:
                yield place, f"`when` names {', '.join(unknown)}, which is neither searched nor a field"
                continue
            if any(_includes(earlier.when, parameter.when) for earlier in parameters[:index]):
                yield place, "is never used: an alternative above it holds whenever this one does"
            local: set[str] = set()
            for value in parameter.extremes():
                for context in _contexts(path, value, parameter, space, plain):
                    beside = {other: context[other] for other in context if other != path}
                    for where, message in _objections(bare, context):
                        fault = f"{_dotted(where)}: {message}" if where else message
                        # Each fault is told once, and where it belongs: not at a parameter that merely occurs beside.
                        elsewhere = _dotted(where) in beside and _dotted(where) not in parameter.when
                        if elsewhere or fault in local or (not where and (path not in _COUPLED or fault in whole)):
                            continue
                        local.add(fault)
                        whole.update([] if where else [fault])
                        # A field's own domain hangs on the method at most, not on the batch.
                        told = [other for other in beside if not where or other in ("method.name", *parameter.when)]
                        given = ", ".join(f"{other} is {_brief(beside[other])}" for other in told)
                        yield place, f"may propose {value!r}{f' where {given}' if given else ''}: {fault}"


_ABSENT = object()


def _step(data: Any, location: Location) -> Any:
    for key in location:
        if not isinstance(data, Mapping) or key not in data:
            return _ABSENT
        data = data[key]
    return data


def _get(data: Any, path: str) -> Any:
    return _step(data, tuple(path.split(".")))


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _objections(bare: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[Location, str]]:
    try:
        data = apply_overrides(bare, values, resolved=True)
        Config.model_validate(data)
    except ValidationError as error:
        return list(_faults(error, data))
    except ConfigError as error:
        path, _, message = error.what.partition(": ")
        return [(_location(path), message)]
    return []


def _includes(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether the conditions ``wide`` hold wherever the conditions ``narrow`` do."""
    return all(
        path in narrow and all(value in _listed(allowed) for value in _listed(narrow[path]))
        for path, allowed in wide.items()
    )


def _listed(allowed: Any) -> list[Any]:
    return allowed if isinstance(allowed, list) else [allowed]


# What one of these may be depends on the others: a method has its own fields and domains, and anchors fit in a batch.
_COUPLED = ("method.name", "method.top_k", "training.batch_size")


def _contexts(
    path: str, value: Any, parameter: Parameter, space: Mapping[str, Sequence[Parameter]], plain: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """``path: value`` beside whatever it must be valid with.

    That is every combination that meets ``when``, and under it both ends of the searched parameters that the domain of
    ``path`` depends on.
    """
    contexts: list[dict[str, Any]] = [{path: value}]
    for other, allowed in parameter.when.items():
        contexts = [{**context, other: one} for context in contexts for one in _listed(allowed)]
    if path.startswith("method.") or path in _COUPLED:
        for other in _COUPLED:
            if other in space:
                contexts = [
                    {**more, **context}
                    for context in contexts
                    for more in ([{}] if other in context else _proposals(other, context, space, plain))
                ]
    return contexts


def _proposals(
    path: str, context: Mapping[str, Any], space: Mapping[str, Sequence[Parameter]], plain: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What a searched path may be under ``context``; nothing at all where its conditions do not hold there."""
    for parameter in space[path]:
        known = {other: context[other] if other in context else _get(plain, other) for other in parameter.when}
        if parameter.holds(known):
            return [{path: value} for value in parameter.extremes()]
    return [{}]
