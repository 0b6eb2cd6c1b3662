"""One searched parameter as the YAML writes it: `{float: [lo, hi], log: true, when: {other: [values]}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pkdray.errors import ConfigError

Scalar = bool | int | float | str | None
KINDS = ("float", "int", "choice", "subset")


class Parameter(BaseModel):
    """A range or a list of values, of exactly one kind, and the condition under which it exists.

    * ``float: [low, high]``, with ``log: true`` or ``step``
    * ``int: [low, high]``, with ``log: true`` or ``step``
    * ``choice: [a, b, ...]``: any values, lists too
    * ``subset: [a, b, ...]``: a subset of at least ``min`` names
    * ``when: {path: value or [values]}``: all of these must hold; ``path`` is another parameter or a fixed field
    * ``points``: how many values a grid takes from a ``float`` or ``int`` range without a step
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    float_: tuple[float, float] | None = Field(default=None, alias="float")
    int_: tuple[int, int] | None = Field(default=None, alias="int")
    choice: list[Any] | None = Field(default=None, min_length=1)
    subset: list[str] | None = Field(default=None, min_length=1)
    min: int = Field(default=1, ge=1)
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    points: int = Field(default=3, ge=2)
    when: dict[str, Scalar | list[Scalar]] = {}

    @field_validator("when", mode="before")
    @classmethod
    def _plain_conditions(cls, when: object) -> object:
        # One message in place of the five of the union.
        if isinstance(when, dict):
            for path, allowed in when.items():
                for value in allowed if isinstance(allowed, list) else [allowed]:
                    if not (value is None or isinstance(value, Scalar)):
                        raise ValueError(f"{path} must be a value or a list of values (got {value!r})")
        return when

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        kinds = [kind for kind in KINDS if self._of(kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of {', '.join(KINDS)} (got {', '.join(kinds) or 'none'})")
        if self.kind in ("float", "int"):
            self._check_range()
        elif self.log or self.step is not None:
            raise ValueError(f"`log` and `step` go with float and int, not with {self.kind}")
        values = self.choice if self.choice is not None else self.subset
        if values is not None:
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"{self.kind} names a value twice: {values}")
            if self.min > len(values):
                raise ValueError(f"min is {self.min}, but there are only {len(values)} to choose from")
        if self.min != 1 and self.subset is None:
            raise ValueError("`min` goes with subset")
        return self

    def _of(self, kind: str) -> Any:
        return getattr(self, f"{kind}_" if kind in ("float", "int") else kind)

    def _check_range(self) -> None:
        low, high = self.range
        if not (math.isfinite(low) and math.isfinite(high)) or low > high:
            raise ValueError(f"[{low}, {high}] is not a range: write the lower end first, both finite")
        if self.log and low <= 0:
            raise ValueError(f"a logarithmic range starts above 0 (got {low})")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other")
        if self.kind == "int" and self.step is not None and self.step != int(self.step):
            raise ValueError(f"the step of an int is a whole number (got {self.step})")

    @property
    def kind(self) -> str:
        """``float``, ``int``, ``choice`` or ``subset``."""
        return next(kind for kind in KINDS if self._of(kind) is not None)

    @property
    def range(self) -> tuple[float, float]:
        """The two ends of a float or int range."""
        ends = self.float_ if self.float_ is not None else self.int_
        if ends is None:
            raise ValueError(f"{self.kind} has no range")
        return ends

    def extremes(self) -> list[Any]:
        """Values that stand for the whole domain when it is checked: both ends, every choice, the full subset."""
        if self.choice is not None:
            return list(self.choice)
        if self.subset is not None:
            return [list(self.subset)]
        return list(self.range)

    def holds(self, values: dict[str, Any]) -> bool:
        """Whether ``when`` is met by ``values`` (path -> value)."""
        return all(
            path in values and values[path] in (allowed if isinstance(allowed, list) else [allowed])
            for path, allowed in self.when.items()
        )


def evaluation_order(space: Mapping[str, Sequence[Parameter]]) -> list[str]:
    """The paths of a space, each behind the paths that its conditions name; alphabetical where that leaves a choice.

    Raises:
        ConfigError: the conditions go round in a circle.

    Example:
        >>> evaluation_order({"a": [Parameter(int=(1, 3), when={"b": 2})], "b": [Parameter(int=(1, 3))]})
        ['b', 'a']
    """
    order: list[str] = []
    trail: list[str] = []

    def visit(path: str) -> None:
        if path in order:
            return
        if path in trail:
            circle = [*trail[trail.index(path) :], path]
            raise ConfigError(
                f"The conditions of search.space go round in a circle: {' -> '.join(circle)}.",
                cure="Take one of these paths out of the other's `when`.",
            )
        trail.append(path)
        for other in sorted({other for parameter in space[path] for other in parameter.when if other in space}):
            visit(other)
        order.append(trail.pop())

    for path in sorted(space):
        visit(path)
    return order
