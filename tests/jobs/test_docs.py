"""docs/jobs.md and the ready jobs: every command in them is one, and every field is in the table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from pkdray.cli import app
from pkdray.jobs import FIELDS, Job, load_job
from pkdray.shipped import JOBS, find_yaml, shipped

PAGE = Path(__file__).parents[2] / "docs" / "jobs.md"
COMMAND = re.compile(r"^(?: {4}|#.*?: +)(pkdray .*?)(?: {2,}#.*)?$", re.MULTILINE)


def texts() -> list[str]:
    return [PAGE.read_text(encoding="utf-8"), *(path.read_text(encoding="utf-8") for path in shipped(JOBS).values())]


@pytest.mark.parametrize("line", sorted({line for text in texts() for line in COMMAND.findall(text)}))
def test_a_command_of_the_page_is_one_that_pkdray_takes(line: str, tmp_path: Path) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    given = command.make_context("pkdray", words).params
    if given.get("assignments"):
        assert load_job(find_yaml(given["job"], JOBS), given["assignments"]).step in FIELDS


def test_there_are_commands_to_look_at() -> None:
    found = {line.split()[1] for text in texts() for line in COMMAND.findall(text)}
    assert found == {"submit", "jobs", "pipeline"}


def test_every_field_is_in_the_table_with_the_steps_that_take_it() -> None:
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", PAGE.read_text(encoding="utf-8").split("## Fields")[1], re.MULTILINE)
    table = {name: steps for names, steps in rows for name in re.findall(r"`(\w+)`", names)}
    fields = {field.alias or name for name, field in Job.model_fields.items()}
    assert set(table) == fields
    for name, steps in table.items():
        owners = [step for step, mine in FIELDS.items() if name in mine]
        if not owners:
            assert steps == "all", name
        elif name == "run":
            assert (steps, set(FIELDS) - set(owners)) == ("all but teach", {"teach"})
        else:
            assert steps.split(", ") == owners, name


def test_the_secrets_of_the_page_are_names() -> None:
    (example,) = re.findall(r"^ {4}(secrets: .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    about = {"name": "j", "step": "teach", "space": "mfeat_pkd", "storage": "/x", **yaml.safe_load(example)}
    assert Job.model_validate(about).secrets == ["WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"]
