"""docs/losses.md: its tables are complete and its examples run."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path

import pytest

import pkdray.losses as losses

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def printed(example):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "docs/losses.md", "exec"), {"__name__": "example"})  # noqa: S102
    return output.getvalue()


def test_every_public_function_has_one_row_in_a_table():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(rows) == sorted(name for name in losses.__all__ if name[0].islower())


def test_every_row_has_its_five_columns():
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(lines) > 30
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 6, line


def test_hyperparameters_in_the_tables_are_parameters():
    rows = re.findall(r"^\| `(\w+)` \|.*?\|.*?\|([^|]*)\|[^|]*\|$", PAGE, flags=re.MULTILINE)
    for name, cell in rows:
        parameters = inspect.signature(getattr(losses, name)).parameters
        for word in re.findall(r"\b(temperature|epsilon|gamma|theta|order|top_k|anchors)\b", cell):
            assert word in parameters, name


def test_the_training_example_prints_a_falling_loss():
    values = [float(value) for value in re.findall(r"loss (\S+)", printed(EXAMPLES[0]))]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 2
    loop = EXAMPLES[0].split("torch.manual_seed(0)\n")[1]
    assert len(loop.splitlines()) <= 12


@pytest.mark.parametrize("example", EXAMPLES[1:])
def test_the_other_examples_run(example):
    assert "torch.Size([3, 29, 8]) torch.Size([3])" in printed(example)


def test_there_are_examples():
    assert len(EXAMPLES) == 2
