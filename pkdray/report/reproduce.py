"""How to do it again: the command, the configuration, the versions and the fingerprints."""

from __future__ import annotations

import shlex

import yaml

from pkdray import mirrors
from pkdray.report.blocks import Block, Document, Section, Table, Text
from pkdray.report.facts import Facts
from pkdray.search.folders import RUN_FILE


def section(facts: Facts) -> Section:
    """Everything that a second run needs to be the same."""
    about = facts.run.about
    command = about.get("command")
    blocks: list[Block] = []
    if command:
        blocks.append(Text("The command that made this run:", shlex.join(str(word) for word in command)))
    else:
        blocks.append(Text("run.yaml does not record the command that made this run."))
    blocks.append(Text("Its configuration again, under another name:", again(facts)))
    config = facts.run.config.model_dump(mode="json", by_alias=True)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    versions = about.get("versions") or {}
    rows: list[list[object]] = [
        ["run", facts.run.name],
        ["made", about.get("created")],
        ["seed", about.get("seed")],
        ["dataset", f"{about.get('dataset')} · fingerprint {about.get('dataset_fingerprint')}"],
        ["teacher pool", f"fingerprint {about.get('pool')}"],
        ["python", about.get("python")],
        *([name, version] for name, version in versions.items()),
    ]
    return Section(
        "reproduce",
        "Reproduce",
        [
            *blocks,
            Table(
                "Made from", "The same fingerprints mean the same data and the same teachers.", ["what", "value"], rows
            ),
            Document("The resolved configuration (every default written out)", text),
        ],
    )


def again(facts: Facts) -> str:
    """The command that sweeps a run's configuration once more."""
    file = mirrors.shown(facts.run.path / RUN_FILE)
    return shlex.join(["pkdray", "sweep", file, "--name", f"{facts.run.name}-again"])
