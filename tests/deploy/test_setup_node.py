"""The environment of a node: made once, made again when what it is made of changes, and after a failure."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
UV = """#!/bin/sh
echo "$@" >>"$HOME/uv.log"
if [ "$1" = venv ]; then mkdir -p "$4/bin" && cp /bin/true "$4/bin/python"; fi
if [ -e "$HOME/no-network" ] && [ "$1" = pip ]; then exit 1; fi
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an uv that writes down what it is asked, and a checkout of three files."""
    (tmp_path / ".local" / "bin").mkdir(parents=True)
    uv = tmp_path / ".local" / "bin" / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    (tmp_path / "pkdray" / "deploy").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", "deploy/setup_node.sh"):
        (tmp_path / "pkdray" / name).write_text((TOP / name).read_text())
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    return tmp_path


def set_up(home: Path, *packages: str, code: int = 0) -> list[str]:
    """What uv was asked to do."""
    log = home / "uv.log"
    log.unlink(missing_ok=True)
    script = home / "pkdray" / "deploy" / "setup_node.sh"
    environment = {**os.environ, "HOME": str(home)}
    ran = subprocess.run(["bash", str(script), *packages], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    return log.read_text().splitlines() if log.exists() else []


def test_it_does_nothing_twice(home: Path) -> None:
    venv, lock, own = set_up(home)
    assert venv == f"venv --python 3.11 {home}/pkdray-venv"
    assert lock == f"pip install --python {home}/pkdray-venv/bin/python --requirement {home}/pkdray/requirements.lock"
    assert own.endswith(f"--no-deps --editable {home}/pkdray")
    assert set_up(home) == []
    lines = (home / ".bashrc").read_text().splitlines()
    assert sorted(lines) == sorted(set(lines))
    assert "export RAY_AUTH_MODE=token" in lines
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_another_lock_is_installed(home: Path) -> None:
    set_up(home)
    with (home / "pkdray" / "requirements.lock").open("a") as lock:
        lock.write("one-more==1\n")
    assert len(set_up(home)) == 2
    assert set_up(home, "google-api-python-client")[0].endswith("google-api-python-client")


def test_what_failed_is_done_again(home: Path) -> None:
    (home / "no-network").touch()
    assert len(set_up(home, code=1)) == 2
    (home / "no-network").unlink()
    assert len(set_up(home)) == 2
    assert set_up(home) == []
