"""What comes with pkdray: ready search spaces that fit their data, and every package and file in the wheel."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

import pytest

import pkdray
from pkdray.config import load_config
from pkdray.data.dataset import open_dataset
from pkdray.errors import ConfigError
from pkdray.shipped import find_yaml, shipped
from pkdray.training.plan import make_plan

PACKAGE = Path(pkdray.__file__).parent
ROOT = PACKAGE.parent
PYPROJECT = ROOT / "pyproject.toml"


def test_there_are_ready_search_spaces_for_every_method() -> None:
    assert {"mfeat_demo", "mfeat_pkd", "mfeat_pkdot", "mfeat_mtpkdot"} <= shipped().keys()
    assert shipped("no such kind") == {}


@pytest.mark.parametrize("name", shipped())
def test_a_ready_search_space_fits_its_bundled_dataset(name: str) -> None:
    config = load_config(find_yaml(name))
    assert config.name == name
    plan = make_plan(config, open_dataset(config.dataset.path))
    assert plan.config.search.space
    text = find_yaml(name).read_text(encoding="utf-8")
    assert f"pkdray sweep {name}" in text, "its header says how to run it"


def test_no_yaml_beside_the_ready_ones_goes_untested() -> None:
    files = {path.stem for path in (ROOT / "search_spaces").rglob("*.y*ml")}
    assert files == set(shipped())


def test_a_yaml_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_yaml("mfeat_demo") == find_yaml("mfeat_demo.yaml") == shipped()["mfeat_demo"]
    own = tmp_path / "mfeat_demo"
    own.write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert find_yaml("mfeat_demo") == Path("mfeat_demo"), "a user's own file comes first"
    assert find_yaml(str(own)) == own


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no_such_space") as caught:
        find_yaml("no_such_space")
    assert "mfeat_demo" in str(caught.value)


@pytest.mark.skipif(not PYPROJECT.exists(), reason="an installed package has no pyproject.toml")
def test_every_package_of_the_tree_is_in_the_wheel() -> None:
    said = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]
    tree = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("*.py")}
    assert set(said["packages"]) == tree | {"pkdray.search_spaces"}
    patterns = said["package-data"]["pkdray"]
    others = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert others
    for name in others:
        assert any(fnmatch.fnmatch(name, pattern.replace("**/", "")) for pattern in patterns), f"{name} is left out"
