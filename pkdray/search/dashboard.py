"""optuna-dashboard on a run's study, which it may look at and not change."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DatabaseError

from pkdray.errors import ConfigError, RunError
from pkdray.search.ledger import Ledger

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_READING = ("GET", "HEAD", "OPTIONS")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: who looks at a page need not read of it in the terminal."""


def dashboard_server(run: Path, host: str, port: int) -> WSGIServer:
    """A server of optuna-dashboard, bound to its port and not yet serving; port 0 takes any that is free.

    The study is opened read-only and requests that would change it (delete a study, edit a note) are refused: the study
    is the ledger of a sweep that may be running.

    Raises:
        ConfigError: optuna-dashboard is not installed.
        RunError: there is no study, or the port cannot be had.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise ConfigError(
            "optuna-dashboard is not installed.", cure='In the folder of the clone: pip install -e ".[dashboard]"'
        ) from error
    path = run / "study.db"
    Ledger(path)
    try:
        storage = RDBStorage(f"sqlite:///file:{quote(str(path.resolve()))}?mode=ro&uri=true")
    except (DatabaseError, StorageInternalError) as error:
        raise RunError(
            f"{path} cannot be opened for reading alone ({type(error).__name__}).",
            cure=f"A sweep that was killed may have left it so: pkdray resume {run}",
        ) from error
    try:
        return make_server(host, port, read_only(wsgi(storage)), server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise RunError(f"Port {port} of {host} {why}.", cure="Choose another with --port, or 0 for any.") from error


def read_only(application: Application) -> Application:
    """The application without the requests that change something."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _READING:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "This dashboard is read-only: the study is the ledger of a pkdray run."}']

    return guarded
