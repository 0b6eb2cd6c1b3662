"""Where a cluster's dashboard is, and whether it answers: told in a second, where Ray's own client takes twenty."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from pkdray.errors import JobError

DEFAULT = "http://127.0.0.1:8265"
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
SECONDS = 5.0
_TUNNEL = (
    "Jobs go to the dashboard's address, http://HEAD:8265 by default. From outside of the cluster open a tunnel, "
    "`ssh -L 8265:127.0.0.1:8265 HEAD` or `kubectl port-forward service/NAME-head-svc 8265`, and leave --address out."
)
TOKEN = (
    "Set RAY_AUTH_MODE=token and the cluster's token: RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file, or "
    "~/.ray/auth_token."
)


def dashboard_address(address: str | None, environment: Mapping[str, str]) -> str:
    """The URL of the dashboard: ``address``, else that of Ray's own variables, else this machine's.

    Raises:
        JobError: it is no address of a dashboard.

    Example:
        >>> dashboard_address("head:8265", {}), dashboard_address(None, {"RAY_ADDRESS": "https://ray.lab/"})
        ('http://head:8265', 'https://ray.lab')
        >>> dashboard_address(None, {"RAY_ADDRESS": "auto"})
        'http://127.0.0.1:8265'
    """
    given, origin = address, "--address"
    for name in VARIABLES:
        if given is None and environment.get(name):
            given, origin = environment[name], name
    if given is None or given in ("auto", "local"):
        return DEFAULT
    scheme, separator, rest = given.rpartition("://")
    if (separator and scheme not in ("http", "https")) or not rest.strip("/"):
        raise JobError(f"{origin} is {given}, which is no address of a dashboard.", cure=_TUNNEL)
    if "@" in rest.partition("/")[0]:
        raise JobError(f"{origin} holds a user or a password.", cure=TOKEN)
    return f"{scheme or 'http'}://{rest.rstrip('/')}"


def probe(url: str, environment: Mapping[str, str], seconds: float = SECONDS) -> None:
    """See that a dashboard is at ``url``, and that a token is at hand if it asks for one.

    Raises:
        JobError: nothing answers, something else than Ray does, or a token is asked for and RAY_AUTH_MODE is not token.
    """
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=seconds) as answer:
            version = json.load(answer).get("ray_version")
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                if environment.get("RAY_AUTH_MODE", "").lower() != "token":
                    raise JobError(
                        f"The cluster at {url} asks for a token (HTTP {error.code}), and RAY_AUTH_MODE is "
                        f"{environment.get('RAY_AUTH_MODE') or 'not set'}.",
                        cure=TOKEN,
                    ) from error
                return
            raise _stranger(url, f"HTTP {error.code}") from error
    except (http.client.HTTPException, ValueError, AttributeError) as error:
        raise _stranger(url, type(error).__name__) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise JobError(f"No Ray dashboard answers at {url} ({_brief(reason)}).", cure=_TUNNEL) from error
    if version is None:
        raise _stranger(url, "no version of Ray")


def _brief(reason: object) -> str:
    said = getattr(reason, "strerror", None) or str(reason)
    return "timed out" if isinstance(reason, TimeoutError) else said


def _stranger(url: str, said: str) -> JobError:
    port = urlsplit(url).port
    return JobError(
        f"What answers at {url} is no Ray dashboard ({said}).",
        cure=f"Check the port, {port or 'none'}: 6379 is the cluster's own, 10001 is Ray Client's. {_TUNNEL}",
    )
