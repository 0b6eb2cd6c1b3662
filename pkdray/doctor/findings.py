"""What a check found: ok, warn or fail, and the cure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        check: what was looked at, as ``cuda``.
        level: ``fail``: a study would stop, or go wrong. ``warn``: it would run, but slowly or at a risk. ``ok``.
        found: what is there, with its value.
        cure: what to do; of every finding that is not ok.
        nodes: where; empty for what belongs to no node.
    """

    check: str
    level: Level
    found: str
    cure: str | None = None
    nodes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return {**asdict(self), "nodes": list(self.nodes)}


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding where several nodes say the same; in the order in which they came.

    Example:
        >>> both = merged(Finding("python", "ok", "3.11.9", nodes=(name,)) for name in ("a", "b"))
        >>> [(one.found, one.nodes) for one in both]
        [('3.11.9', ('a', 'b'))]
    """
    together: dict[Finding, list[str]] = {}
    for finding in findings:
        together.setdefault(replace(finding, nodes=()), []).extend(finding.nodes)
    return [replace(finding, nodes=tuple(dict.fromkeys(nodes))) for finding, nodes in together.items()]


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything stands in a study's way."""
    return any(finding.level == "fail" for finding in findings)


def where(nodes: Sequence[str]) -> str:
    """Nodes as a table's cell has room for.

    Example:
        >>> where(["a", "b"]), where(["a", "b", "c", "d"]), where([])
        ('a, b', 'a and 3 more', '')
    """
    return ", ".join(nodes) if len(nodes) <= 2 else f"{nodes[0]} and {len(nodes) - 1} more"
