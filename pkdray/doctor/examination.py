"""All checks, on this machine alone or on a connected cluster."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from pkdray.doctor import checks, facts, network, storage
from pkdray.doctor.checks import NodeFacts
from pkdray.doctor.findings import Finding, merged


def examine_machine(root: str | None, needed: int | None) -> list[Finding]:
    """This machine alone; starts no Ray.

    Args:
        root: the runs dir to try; None tries none.
        needed: bytes that a study puts into the object store, if one is named.
    """
    here = NodeFacts(**facts.gather())
    findings = checks.node_findings(here, here, needed)
    if root is not None:
        tried = NodeFacts(**{**vars(here), "storage": storage.probe(root, _mark())})
        findings += checks.storage([tried], root)
    findings += checks.token(network.token_facts(os.environ, Path.home()))
    return [*findings, checks.extras(here)]


def examine_cluster(root: str | None, needed: int | None) -> list[Finding]:
    """Every node of the connected cluster, against this machine."""
    import ray

    from pkdray.doctor.nodes import cluster_facts

    here = NodeFacts(**facts.gather())
    nodes, silent = cluster_facts(root, _mark())
    findings = [
        Finding("nodes", "fail", said, "Look at the node's logs: ray logs, or /tmp/ray/session_latest/logs.", (name,))
        for name, said in silent.items()
    ]
    findings.append(Finding("nodes", "ok", f"{len(nodes)} answered"))
    for node in nodes:
        findings += checks.node_findings(node, here, needed)
    if root is not None:
        findings += checks.storage(nodes, root)
    context = ray.get_runtime_context()
    findings.append(checks.port(network.answers("GCS", context.gcs_address, needed=True)))
    dashboard = _dashboard_url()
    if dashboard is None:
        findings.append(checks.port(checks.Port("dashboard", "any port", "the cluster runs none", needed=False)))
        findings += checks.token(network.token_facts(os.environ, Path.home(), _mode_here()))
    else:
        findings += dashboard_findings(f"http://{dashboard}", needed=False, mode=_mode_here())
    return merged([*findings, checks.extras(here)])


def dashboard_findings(url: str, *, needed: bool, mode: str | None = None) -> list[Finding]:
    """The dashboard at ``url``, and the token that it asks for; ``mode`` is what is known of the cluster already."""
    url = url.rstrip("/")
    said = network.ask_dashboard(url)
    found = [checks.port(checks.Port("dashboard", url, said["error"], needed))]
    held = network.token_facts(os.environ, Path.home(), said["mode"] or mode)
    return [*found, *checks.token(checks.TokenFacts(**{**vars(held), "refused": said["refused"]}))]


def unreachable(address: str) -> list[Finding] | None:
    """What there is to say where nothing answers at ``HOST:PORT``; None where something does, or may.

    Ray itself would try for half a minute.
    """
    if address in ("auto", "local"):
        return None
    found = network.answers("GCS", address, needed=True)
    return None if found.error is None else [checks.port(found)]


def no_connection(error: str) -> list[Finding]:
    """What there is to say of a cluster that did not let this process in."""
    held = network.token_facts(os.environ, Path.home())
    cure = "Check that Python and Ray are the same here and there (`ray --version`), and the token."
    found = [Finding("connection", "fail", error, cure)]
    if held.mode != "token":
        said = f"this process shows no token: RAY_AUTH_MODE is {held.mode or 'not set'}"
        return [*found, Finding("token", "warn", said, "If the cluster asks for one: export RAY_AUTH_MODE=token")]
    return [*found, *checks.token(held)]


def _mark() -> str:
    return f".pkdray-doctor-{uuid.uuid4().hex[:12]}"


def _dashboard_url() -> str | None:
    import ray

    worker: Any = ray._private.worker
    return worker.get_dashboard_url() or None


def _mode_here() -> str | None:
    """The mode of the connected cluster, where it is known: one that asks for a token lets nobody in without."""
    return None if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" else "disabled"
