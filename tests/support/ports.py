"""Ports for servers that a test starts in other processes."""

from __future__ import annotations

import secrets
import socket

_FIRST, _END = 20000, 32768
"""Above the ports of Ray's workers (10001-19999), below those that the system hands out (from 32768)."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that nobody is given unasked before they are used."""
    # Two processes that look at once do not begin at the same one.
    start, found = secrets.randbelow(_END - _FIRST), []
    for step in range(_END - _FIRST):
        if len(found) == count:
            return found
        port = _FIRST + (start + step) % (_END - _FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            found.append(port)
    raise AssertionError(f"of the ports {_FIRST} to {_END - 1} fewer than {count} are free")
