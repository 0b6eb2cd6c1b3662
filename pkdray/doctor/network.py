"""What answers at an address: ports, the dashboard, and who asks for a token."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pkdray.doctor.checks import Port, TokenFacts

GCS_PORT, DASHBOARD_PORT = 6379, 8265
_SECONDS = 5.0


def is_dashboard(address: str) -> bool:
    """Whether an address is that of a dashboard (http), as behind a tunnel, and not of a cluster to connect to."""
    return urlsplit(address).scheme in ("http", "https")


def answers(name: str, address: str, *, needed: bool) -> Port:
    """Connect to ``host:port`` and hang up."""
    host, _, number = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(number)), timeout=_SECONDS):
            return Port(name, address, None, needed)
    except ValueError:
        return Port(name, address, "it is not of the form HOST:PORT", needed)
    except OSError as error:
        return Port(name, address, error.strerror or str(error), needed)


def token_facts(environment: Mapping[str, str], home: Path, cluster: str | None = None) -> TokenFacts:
    """Where Ray finds its token: the variable, else the file that a variable names, else ``~/.ray/auth_token``."""
    mode = environment.get("RAY_AUTH_MODE", "").lower() or None
    if environment.get("RAY_AUTH_TOKEN"):
        return TokenFacts(mode, "RAY_AUTH_TOKEN", None, cluster)
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token").expanduser()
    try:
        present = bool(path.read_text(encoding="utf-8").strip())
        return TokenFacts(mode, str(path) if present else None, path.stat().st_mode & 0o777, cluster)
    except OSError:
        return TokenFacts(mode, None, None, cluster)


def the_token(environment: Mapping[str, str], home: Path) -> str | None:
    """The token itself; never shown."""
    source = token_facts(environment, home).source
    if source is None:
        return None
    return environment[source] if source == "RAY_AUTH_TOKEN" else Path(source).read_text(encoding="utf-8").strip()


def ask_dashboard(url: str, environment: Mapping[str, str] = os.environ, home: Path | None = None) -> dict[str, Any]:
    """What a dashboard says of itself: ``{"error", "mode", "refused", "ray"}``; what it does not say is None."""
    home = home or Path.home()
    said: dict[str, Any] = {"error": None, "mode": None, "refused": False, "ray": None}
    try:
        # Dashboards before token authentication do not know this question.
        said["mode"] = _ask(f"{url}/api/authentication_mode", None).get("authentication_mode")
    except urllib.error.HTTPError:
        said["mode"] = None
    except (OSError, ValueError) as error:
        said["error"] = str(getattr(error, "reason", None) or error)
        return said
    held = the_token(environment, home)
    try:
        said["ray"] = _ask(f"{url}/api/version", held).get("ray_version")
    except urllib.error.HTTPError as error:
        # 401: no token; 403: another one.
        said["refused"] = error.code in (401, 403) and held is not None
        said["mode"] = said["mode"] or ("token" if error.code in (401, 403) else None)
    except (OSError, ValueError) as error:
        said["error"] = str(error)
    return said


def _ask(url: str, token: str | None) -> dict[str, Any]:
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        said = json.load(answer)
    return said if isinstance(said, dict) else {}
