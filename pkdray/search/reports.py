"""What a trial says to Ray Tune, and what of it means that it has ended. Imports neither."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

EPOCH, VALUE, FAILED, SUMMARY, HALT = "epoch", "value", "failed", "summary", "halt"
"""What a trial reports: the epoch, the best value so far, a reason if it failed, its summary (JSON) if it finished, and
why the whole sweep must halt (a full disk), if it must."""

ENTRY = "entry"
"""The epoch's metrics, and the node and device that it ran on (JSON)."""

PROCESS_DIED = "its process died: out of memory, killed, or its node was lost"


def has_ended(result: Mapping[str, Any]) -> bool:
    """Whether a report is a trial's last word."""
    return bool(result.get(FAILED) or result.get(SUMMARY) or result.get(HALT))


def outcome(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A finished trial's last report."""
    return {EPOCH: summary["epochs"], VALUE: summary["value"], SUMMARY: json.dumps(summary), FAILED: ""}
