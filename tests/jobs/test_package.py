"""What goes up with a job: the study, pkdray's own code where it is worked on, a folder without its ballast."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pkdray
from pkdray.errors import JobError
from pkdray.jobs import check_size, files_to_send, write_package

ROOT = Path(pkdray.__file__).parent.parent


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_by_itself_nothing_but_the_study_goes_up(tmp_path: Path) -> None:
    write(tmp_path, "mine.yaml", ".env", "notes.txt", "data/dataset.yaml")
    assert files_to_send(None, None, tmp_path) == {}
    assert files_to_send(tmp_path / "mine.yaml", None, tmp_path) == {"studies/mine.yaml": tmp_path / "mine.yaml"}


def test_a_working_folder_goes_up_without_its_ballast(tmp_path: Path) -> None:
    sent = ["mine.yaml", "tools/clean.py", "tables/labels.csv", "deep/er/notes.txt"]
    ballast = [
        "data/x.csv", "runs/a/run.yaml", "venv/lib/x.py", "pictures/dataset.yaml", "pictures/images/face.npy",
        "old/run.yaml", "old/trials/0/best.safetensors", "python311/pyvenv.cfg", "python311/bin/python",
        ".git/config", ".venv/bin/python", ".env", ".aws/credentials", "tools/__pycache__/clean.pyc", "id.pem",
        "server.key", "my.egg-info/PKG-INFO", "taken_home/preprocessing.yaml", "weights/vgg19.pth", "tools/data/x.csv",
    ]  # fmt: skip
    write(tmp_path, *sent, *ballast)
    (tmp_path / "link").symlink_to("/etc", target_is_directory=True)
    (tmp_path / "hosts").symlink_to("/etc/hosts")
    found = files_to_send(None, tmp_path, tmp_path)
    assert sorted(found) == sorted(sent)
    assert all(path == tmp_path / name for name, path in found.items())


def test_a_working_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nowhere is no folder"):
        files_to_send(None, tmp_path / "nowhere", tmp_path)


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="an installed package is no checkout")
@pytest.mark.parametrize("asked", [None, ROOT], ids=["by itself", "as working_dir"])
def test_the_code_of_a_checkout_goes_up_whole_and_runs(asked: Path | None, tmp_path: Path) -> None:
    found = files_to_send(None, asked, ROOT)
    assert {"pkdray/__main__.py", "search_spaces/mfeat_demo.yaml", "jobs/pipeline.yaml"} <= found.keys()
    assert {"pkdray/data/bundled.py", "pkdray/data/samples/mfeat/dataset.yaml"} <= found.keys()
    assert not [name for name in found if name.endswith(".pyc") or "/." in name]
    write_package(found, tmp_path / "job.zip")
    with zipfile.ZipFile(tmp_path / "job.zip") as archive:
        archive.extractall(tmp_path / "job")
    code = (
        "import pkdray, pkdray.shipped as s; from pkdray.data.bundled import bundled_datasets; "
        "print(pkdray.__file__, len(s.shipped()), len(s.shipped('jobs')), 'mfeat' in bundled_datasets())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "job", env={}, capture_output=True, text=True, check=True
    )
    spaces = len(list((ROOT / "search_spaces").glob("*.yaml")))
    assert said.stdout.split() == [str(tmp_path / "job" / "pkdray" / "__init__.py"), str(spaces), "6", "True"]


def test_too_much_is_refused_before_anything_goes_up_and_the_biggest_are_named(tmp_path: Path) -> None:
    write(tmp_path, "mine.yaml", "tables/a.csv", "tables/b.csv", "one/two/three.bin", "top.bin")
    mib = 1024**2
    for name, size in (("tables/a.csv", 60), ("tables/b.csv", 30), ("one/two/three.bin", 8), ("top.bin", 3)):
        with (tmp_path / name).open("r+b") as file:
            file.truncate(size * mib)
    with pytest.raises(JobError, match=r"101 MiB would go up with the job, and Ray takes less than 100 MiB") as told:
        check_size(files_to_send(None, tmp_path, tmp_path))
    assert told.value.details == ("tables/ 90.0 MiB", "one/two/ 8.0 MiB", "top.bin 3.0 MiB", "mine.yaml 0.0 MiB")
    assert "leave `working_dir` out" in str(told.value)


def test_just_under_the_limit_goes_up(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x" * 1023)
    assert check_size({"a.csv": tmp_path / "a.csv"}, limit=1024) == 1023
    with pytest.raises(JobError):
        check_size({"a.csv": tmp_path / "a.csv"}, limit=1023)


def test_the_same_files_make_the_same_package(tmp_path: Path) -> None:
    write(tmp_path / "one", "b.yaml", "a/c.py")
    write(tmp_path / "two", "a/c.py", "b.yaml")
    for name in ("one", "two"):
        write_package(files_to_send(None, tmp_path / name, tmp_path), tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read("a/c.py") == b"a/c.py"
