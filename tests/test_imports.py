"""Who imports whom: the command line starts without the heavy libraries, and rooms import downwards only.

The rule. A module of pkdray may import from its own room and from rooms on lower floors; rooms of one floor do not know
each other, except on the floors marked below, whose rooms may use one another as long as that makes no circle. Imports
inside functions count, since they bind rooms together as much as others do; imports for type checking alone do not,
since they vanish when the code runs. Utilities stand where the lowest of their users needs them: errors, files and
mirrors below everything; console, cluster, interrupts, jobs, secrets and shipped are used by the commands alone, so
they stand with them on the top floor.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS

import pkdray

PACKAGE = Path(pkdray.__file__).parent
HEAVY = ("torch", "ray", "optuna", "pandas", "numpy", "pyarrow", "scipy")
FLOORS = [
    ["errors", "files", "config", "locks", "repeating", "mirrors"],
    ["data", "losses", "models"],
    ["embeddings", "resources", "tracking"],
    ["training"],
    ["search"],
    ["diagnostics", "doctor", "evaluate", "export", "profile", "report"],
    ["predict"],
    ["steps", "demo", "cli", "console", "cluster", "interrupts", "orphans", "jobs", "secrets", "shipped", "__main__"],
]
SOCIABLE = (0, 5, 7)
"""Floors whose rooms may import one another: the foundation, what leaves a run, and the commands."""

IMPORTED = """
import json, sys
{code}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def floor(room: str) -> int | None:
    return next((level for level, rooms in enumerate(FLOORS) if room in rooms), None)


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of pkdray that happens when the code runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from imported_rooms(node)
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "pkdray" and rest and not rest[0].startswith("__version"):
                yield node.lineno, rest[0]


def trespasses(room: str, source: str) -> list[str]:
    here = floor(room)
    assert here is not None, f"the room {room} stands on no floor: add it to FLOORS where it belongs"
    found = []
    for line, other in imported_rooms(ast.parse(source)):
        there = floor(other)
        assert there is not None, f"line {line}: pkdray.{other} stands on no floor"
        if other != room and (there > here or (there == here and here not in SOCIABLE)):
            found.append(f"line {line}: {room} imports {other}")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_below_it(path: Path) -> None:
    assert trespasses(room_of(path), path.read_text(encoding="utf-8")) == []


def test_the_rule_notices_an_import_that_goes_up_or_aside() -> None:
    assert trespasses("models", "from pkdray.training.plan import Plan") == ["line 1: models imports training"]
    assert trespasses("losses", "from pkdray import models") == ["line 1: losses imports models"]
    assert trespasses("search", "def f():\n    from pkdray import evaluate") == ["line 2: search imports evaluate"]
    assert trespasses("console", "import pkdray.steps") == []
    assert trespasses("errors", "if TYPE_CHECKING:\n    import pkdray.cli") == []


def test_there_is_no_circle_of_rooms() -> None:
    reaches: dict[str, set[str]] = {}
    for path in modules():
        room = room_of(path)
        found = imported_rooms(ast.parse(path.read_text(encoding="utf-8")))
        reaches.setdefault(room, set()).update(other for _, other in found if other != room)
    for _ in reaches:
        for others in reaches.values():
            others |= {further for other in others for further in reaches.get(other, ())}
    assert len(reaches) > 10
    assert [room for room, others in reaches.items() if room in others] == []


def imported_by(code: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(code=code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return set(json.loads(ran.stdout.splitlines()[-1]))


COMMAND = """
sys.argv = ["pkdray", {arguments}]
from pkdray.__main__ import main
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    "code",
    ["import pkdray", "import pkdray.cli", *(COMMAND.format(arguments=a) for a in ("'--help'", "'sweep', '--help'"))],
    ids=["import pkdray", "import pkdray.cli", "pkdray --help", "pkdray sweep --help"],
)
def test_help_is_instant_because_nothing_heavy_is_imported(code: str) -> None:
    assert imported_by(code) & set(HEAVY) == set()


def test_a_mistake_in_a_yaml_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("dataset: {path: mfeat, prevalent: [fou]}\ntrainin: {epochs: 3}\n")
    code = COMMAND.format(arguments=f"'sweep', '{tmp_path / 'bad.yaml'}'")
    assert imported_by(code) & {"torch", "ray", "optuna"} == set()


def test_predicting_needs_neither_ray_nor_optuna() -> None:
    if not (PACKAGE / "predict").is_dir() and not (PACKAGE / "predict.py").exists():
        pytest.skip("there is no predict yet")
    assert imported_by("import pkdray.predict") & {"ray", "optuna"} == set()
