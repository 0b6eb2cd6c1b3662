"""What a job's YAML may say, and how its faults are told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError

from pkdray.config import Name, Section, config_error, parse_assignments, read_yaml

Step = Literal["teach", "sweep", "resume", "evaluate", "export", "pipeline"]
FIELDS: dict[str, tuple[str, ...]] = {
    "teach": ("space", "set"),
    "sweep": ("space", "run", "trials", "set"),
    "resume": ("run", "trials", "retry_failed"),
    "evaluate": ("run", "seeds", "folds", "top", "against"),
    "export": ("run", "output"),
    "pipeline": ("space", "run", "trials", "set", "seeds", "folds", "top", "against", "output"),
}
"""Step -> the fields that mean something to it, beside those of every job."""
_REQUIRED = ("space", "run")
_NESTED = ("set", "env", "resources")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_SECRET = {"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS"}
_PLACE = {"PATH", "FILE", "DIR"}
_KEYS = re.compile(r"(key|secret|token|password)=", re.IGNORECASE)
_PASSWORD = (
    "holds credentials, which Ray shows and keeps: put them into the cluster's own environment, and their names under "
    "`secrets`"
)


def looks_secret(name: str) -> bool:
    """Whether an environment variable's name says that its value is a secret, and not where one lies.

    Example:
        >>> [looks_secret(name) for name in ("WANDB_API_KEY", "TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH")]
        [True, False, False]
    """
    parts = name.upper().split("_")
    return bool(_SECRET.intersection(parts)) and parts[-1] not in _PLACE


def without_credentials(text: str) -> str:
    """Refuse an address that holds a user, a password or a key: Ray shows and keeps a job's command line."""
    parts = urlsplit(text)
    if parts.scheme and ("@" in parts.netloc or _KEYS.search(parts.query)):
        raise ValueError("holds credentials, which Ray would show: give the cluster a role, or list `secrets`")
    return text


def lasting(text: str) -> str:
    """Refuse a relative place: a job runs in a temporary folder, and what it writes there is lost."""
    without_credentials(text)
    if not (text.startswith(("/", "~/")) or "://" in text):
        raise ValueError(
            f"is the relative path '{text}', but a job runs in a temporary folder: write an absolute path that the "
            "cluster's nodes share, ~/..., or a URI such as s3://bucket/runs"
        )
    return text


def _holds_password(value: Any) -> bool:
    """Whether a value, or one within it, is an address with a password or a key."""
    if isinstance(value, dict | list):
        return any(map(_holds_password, value.values() if isinstance(value, dict) else value))
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        return parts is not None and (parts.password is not None or bool(_KEYS.search(parts.query)))
    except ValueError:
        # No address at all.
        return False


def _names(names: list[str]) -> list[str]:
    # What is no name may be a value: it is not repeated.
    wrong = [str(index + 1) for index, name in enumerate(names) if not _VARIABLE.fullmatch(name)]
    if wrong:
        raise ValueError(f"entry {', '.join(wrong)} is no name of an environment variable; list NAMES, never values")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice")
    return names


Place = Annotated[str, Field(min_length=1), AfterValidator(lasting)]
Count = Annotated[int, Field(ge=1)]


class JobResources(Section):
    """What the job's own driver takes of the node that it runs on; trials and teachers take theirs beside it."""

    entrypoint_cpus: float = Field(default=0, ge=0)
    entrypoint_gpus: float = Field(default=0, ge=0)
    entrypoint_memory: int = Field(default=0, ge=0, description="bytes")


class Job(Section):
    """One step of pkdray, to be run by a cluster. docs/jobs.md has every field."""

    name: Name
    step: Step
    storage: Place
    space: str | None = Field(default=None, min_length=1)
    run: Name | None = None
    assignments: dict[str, Any] = Field(default_factory=dict, alias="set")
    trials: Count | None = None
    retry_failed: bool = False
    seeds: Count | None = None
    folds: int | Literal["all"] | list[int] | None = None
    top: Count | None = None
    against: list[str] = Field(default_factory=list)
    output: Place | None = None
    working_dir: str | None = None
    python: str = Field(default="python", pattern=r"^\S+$")
    stop_seconds: int = Field(default=60, ge=1, le=3600)
    resources: JobResources = JobResources()
    env: dict[Annotated[str, Field(pattern=_VARIABLE.pattern)], str] = Field(default_factory=dict)
    secrets: Annotated[list[str], AfterValidator(_names)] = Field(default_factory=list)


def load_job(path: Path, assignments: Iterable[str] = ()) -> Job:
    """Read a job from a YAML file; ``name`` defaults to the file's name.

    Args:
        path: the YAML file.
        assignments: ``FIELD=VALUE`` or ``SECTION.FIELD=VALUE``, applied on top.

    Raises:
        ConfigError: the file is missing or not YAML, or says something that cannot be meant. All faults are listed.
    """
    data, lines = read_yaml(path, "jobs/")
    data.setdefault("name", path.stem)
    origins: dict[tuple[str | int, ...], int | str] = dict(lines)
    for place, value in parse_assignments(assignments).items():
        section, dot, field = place.partition(".")
        if dot and section in _NESTED:
            inner = data.get(section)
            data[section] = {**(inner if isinstance(inner, dict) else {}), field: value}
            origins[section, field] = "--set"
        else:
            data[place] = value
            origins = {where: line for where, line in origins.items() if where[0] != place} | {(place,): "--set"}
    return build_job(data, source=str(path), lines=origins)


def build_job(
    data: Mapping[str, Any],
    *,
    source: str = "the job",
    lines: Mapping[tuple[str | int, ...], int | str] | None = None,
) -> Job:
    """Validate plain data as a job.

    Raises:
        ConfigError: with one detail a fault.
    """
    faults = [*_step_faults(data), *_secret_faults(data)]
    try:
        job = Job.model_validate(data)
    except ValidationError as error:
        raise config_error([*_faults(error), *faults], source, lines or {}) from error
    if faults:
        raise config_error(faults, source, lines or {})
    return job


Fault = tuple[tuple[str | int, ...], str]


def _step_faults(data: Mapping[str, Any]) -> Iterable[Fault]:
    """What a step needs and lacks, and what means nothing to it."""
    step = data.get("step")
    if not isinstance(step, str) or step not in FIELDS:
        return
    mine = FIELDS[step]
    for field in _REQUIRED:
        if field in mine and data.get(field) is None:
            yield (field,), f"is required by {step}"
    for field in dict.fromkeys(name for fields in FIELDS.values() for name in fields):
        if field not in mine and data.get(field) is not None:
            owners = ", ".join(name for name, fields in FIELDS.items() if field in fields)
            yield (field,), f"means nothing to {step}; it belongs to {owners}"


def _secret_faults(data: Mapping[str, Any]) -> Iterable[Fault]:
    """Variables of `env` whose values Ray would show and keep, though they look like secrets or are called so."""
    env, secrets = data.get("env"), data.get("secrets")
    for name, value in env.items() if isinstance(env, dict) else ():
        if isinstance(secrets, list) and name in secrets:
            yield ("env", name), "is among the `secrets` too, which have no values here"
        elif looks_secret(str(name)):
            yield (
                ("env", name),
                "looks like a secret, and Ray shows and keeps these values: put the name under `secrets`, and the "
                "value into the cluster's own environment",
            )
        elif _holds_password(value):
            yield ("env", name), _PASSWORD
    assignments = data.get("set")
    for path, value in assignments.items() if isinstance(assignments, dict) else ():
        if _holds_password(value):
            yield ("set", path), _PASSWORD


def _faults(error: ValidationError) -> Iterable[Fault]:
    for item in error.errors():
        location, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            kinds = JobResources if location[0] == "resources" else Job
            known = [field.alias or name for name, field in kinds.model_fields.items()]
            near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.55)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            yield location, f"unknown key; {hint}"
        elif kind == "missing":
            yield location, "is required"
        elif kind == "value_error":
            yield location, str(item["ctx"]["error"])
        elif location[0] == "folds":
            # Each member of the union tells a fault of its own.
            if location == ("folds", "int"):
                yield ("folds",), "must be all, a fold's number, or a list of them"
        elif location[0] == "env" and kind == "string_type":
            yield location, "must be text: quote it"
        else:
            yield location, f"{item['msg'].replace('Input should be', 'must be', 1)} (got {_shown(item['input'])})"


def _shown(received: Any) -> str:
    shown = repr(received)
    return shown if len(shown) < 80 else shown[:77] + "..."
