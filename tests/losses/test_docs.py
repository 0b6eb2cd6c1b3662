"""docs/losses.md: its tables are complete and its examples run."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path

import pytest
from torch import nn

import pkdray.losses as losses

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
MODULE_ROWS = re.findall(r"^\| `(\w+)\((.*?)\)` \| `(.*?)` \| (.*?) \|$", PAGE, flags=re.MULTILINE)


def printed(example):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "docs/losses.md", "exec"), {"__name__": "example"})  # noqa: S102
    return output.getvalue()


def test_every_public_function_has_one_row_in_a_table():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(rows) == sorted(name for name in losses.__all__ if name[0].islower())


def test_every_row_has_its_columns():
    functions, modules = PAGE.split("## The transport loss")[0], PAGE.split("## As modules")[1]
    for part, columns, least in ((functions, 5, 30), (modules, 3, 14)):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len(lines) > least
        for line in lines:
            assert len(re.findall(r"(?<!\\)\|", line)) == columns + 1, line


def test_every_public_module_has_one_row_in_a_table():
    public = {name: getattr(losses, name) for name in losses.__all__}
    modules = {name for name, value in public.items() if inspect.isclass(value) and issubclass(value, nn.Module)}
    assert sorted(name for name, *_ in MODULE_ROWS) == sorted(modules)


@pytest.mark.parametrize(("name", "built", "called", "functions"), MODULE_ROWS, ids=[row[0] for row in MODULE_ROWS])
def test_the_row_of_a_module_is_what_its_signatures_say(name, built, called, functions):
    module = getattr(losses, name)
    assert built == written(inspect.signature(module))
    assert f"self, {called}" == written(inspect.signature(module.forward))
    named = re.findall(r"`(\w+)`", functions)
    assert named
    assert all(word in losses.__all__ for word in named)


def written(signature):
    """The parameters as they are typed, without their types."""
    bare = (parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values())
    return ", ".join(map(str, bare))


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


@pytest.mark.parametrize(
    ("example", "said"),
    list(zip(EXAMPLES[1:], ["UncertaintyWeighting(losses=2)", "torch.Size([3, 29, 8]) torch.Size([3])"], strict=True)),
)
def test_the_other_examples_run(example, said):
    assert said in printed(example)
