"""Is this machine, or a cluster, ready for a study?"""

from __future__ import annotations

import os
from pathlib import Path

from pkdray.console import Console
from pkdray.doctor import Finding, failed, merged, where
from pkdray.errors import ConfigError, RunError
from pkdray.mirrors import is_uri, open_root, shown


def doctor(
    console: Console, *, address: str | None, runs_dir: str | None, space: str | None, holds: int | None
) -> bool:
    """Examine and show; whether a study may begin.

    Args:
        console: where it is shown.
        address: of a cluster, or of its dashboard (http); None: RAY_ADDRESS, else this machine alone.
        runs_dir: a folder or a URI to try; None tries none.
        space: a study whose arrays the object store has to hold.
        holds: bytes that it has to hold, where no study is named.

    Raises:
        ConfigError: the study has a mistake, or the runs dir is no folder that the cluster could know.
        StorageError: the runs dir is a URI that pkdray cannot use.
        DatasetError: its dataset is not here.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    root = _root(runs_dir, address)
    needed = holds if space is None else _held(space)
    findings = _examined(console, address, root, needed)
    counts = {level: sum(one.level == level for one in findings) for level in ("ok", "warn", "fail")}
    console.table(
        f"{address or 'This machine'}",
        ["", "check", "found", "where"],
        [[one.level, one.check, one.found, where(one.nodes)] for one in findings],
    )
    cures = [f"  {one.check}: {one.cure}" for one in findings if one.level != "ok" and one.cure]
    about = {"address": address, "counts": counts, "findings": [one.as_dict() for one in findings]}
    summary = f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail."
    console.result(about, summary, *(["", "To mend it:", *dict.fromkeys(cures)] if cures else []))
    return not failed(findings)


def _examined(console: Console, address: str | None, runs_dir: str | None, needed: int | None) -> list[Finding]:
    from pkdray.doctor.examination import (
        dashboard_findings,
        examine_cluster,
        examine_machine,
        no_connection,
        unreachable,
    )
    from pkdray.doctor.network import is_dashboard

    if address is None:
        console.say("Looking at this machine ...")
        return examine_machine(runs_dir, needed)
    if is_dashboard(address):
        console.say(f"Looking at {address} ...")
        findings = dashboard_findings(address, needed=True)
        if failed(findings):
            return findings
        from pkdray.doctor.remote import examine_by_job

        return merged([*findings, *examine_by_job(address, runs_dir, needed)])
    from pkdray.cluster import connected

    console.say(f"Looking at every node of {address} ...")
    nothing = unreachable(address)
    if nothing is not None:
        return nothing
    try:
        with connected(address):
            return examine_cluster(runs_dir, needed)
    except RunError as error:
        return no_connection(error.what)


def _root(runs_dir: str | None, address: str | None) -> str | None:
    """The runs dir as every node understands it: nodes run in other folders."""
    from pkdray.doctor.network import is_dashboard

    if runs_dir is None:
        return None
    if is_uri(runs_dir):
        # As every step reads it; one with credentials is refused, which a job's command line would show.
        return shown(open_root(runs_dir))
    path = Path(runs_dir).expanduser()
    if address is not None and is_dashboard(address) and not path.is_absolute():
        raise ConfigError(
            f"--runs-dir {runs_dir} is a folder of this machine, and the cluster is behind {address}.",
            cure="Give the folder's absolute path on the cluster, or a URI such as s3://BUCKET/runs.",
        )
    return str(path.absolute())


def _held(space: str) -> int:
    from pkdray.steps.studies import load_study

    dataset, plan = load_study(space, [])
    from pkdray.doctor.holdings import held_bytes

    return held_bytes(plan, dataset)
