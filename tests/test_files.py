from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pkdray import files
from pkdray.errors import StorageError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=9,
)


class TestWriteAtomic:
    def test_makes_the_folders_and_leaves_nothing_else(self, tmp_path):
        target = tmp_path / "a" / "b" / "x.txt"
        files.write_text(target, "grüße")
        assert target.read_text(encoding="utf-8") == "grüße"
        assert list(target.parent.iterdir()) == [target]

    def test_the_writer_sees_the_suffix(self, tmp_path):
        seen = []
        files.write_atomic(tmp_path / "x.parquet", lambda temporary: seen.append(temporary.suffix))
        assert seen == [".parquet"]

    @pytest.mark.parametrize("fault", [ValueError("x"), KeyboardInterrupt()])
    def test_an_exception_leaves_the_old_file_and_no_other(self, tmp_path, fault):
        target = tmp_path / "x.txt"
        files.write_text(target, "old")

        def write(temporary: Path) -> None:
            temporary.write_text("half of the n")
            raise fault

        with pytest.raises(type(fault)):
            files.write_atomic(target, write)
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_new_file_has_the_permissions_of_any_new_file(self, tmp_path):
        (tmp_path / "plain").touch()
        files.write_text(tmp_path / "x", "y")
        assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.parametrize(
        ("number", "word"),
        [
            (errno.ENOSPC, "no space"),
            (errno.EDQUOT, "quota"),
            (errno.EROFS, "read-only"),
            (errno.EACCES, "permission"),
            (errno.EIO, "input/output"),
        ],
    )
    def test_a_refusal_of_the_system_is_explained_and_leaves_the_old_file(self, tmp_path, number, word):
        target = tmp_path / "x.txt"
        files.write_text(target, "old")

        def write(temporary: Path) -> None:
            temporary.write_text("new")
            raise OSError(number, os.strerror(number))

        with pytest.raises(StorageError, match=word) as error:
            files.write_atomic(target, write)
        assert str(target) in str(error.value)
        assert error.value.cure
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
    def test_a_full_disk(self, tmp_path):
        with pytest.raises(StorageError, match="no space"):
            files.write_atomic(tmp_path / "x.txt", lambda _: Path("/dev/full").write_text("x" * 10_000))
        assert list(tmp_path.iterdir()) == []

    def test_other_faults_of_the_system_stay_what_they_are(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            files.write_atomic(tmp_path / "x.txt", lambda temporary: (temporary.parent / "no").read_text())


@given(value=plain)
def test_yaml_and_json_come_back(value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("y")
    files.write_json(folder / "x.json", value)
    assert json.loads((folder / "x.json").read_text(encoding="utf-8")) == value
    # YAML 1.1 has no way to write some control characters back, so only what is printable is promised.
    text = repr(value)
    if text.isprintable() and "\\" not in text:
        files.write_yaml(folder / "x.yaml", value, header="two\nlines")
        assert yaml.safe_load((folder / "x.yaml").read_text(encoding="utf-8")) == value
        assert (folder / "x.yaml").read_text(encoding="utf-8").startswith("# two\n# lines\n")


def test_json_refuses_what_is_no_number_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(content=st.binary(max_size=99))
def test_a_checksum_is_the_sha256_of_the_bytes(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "x"
    path.write_bytes(content)
    assert files.checksum(path) == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_checksum_of_several_blocks(tmp_path):
    content = bytes(range(251)) * 10_007
    (tmp_path / "x").write_bytes(content)
    assert files.checksum(tmp_path / "x") == f"sha256:{hashlib.sha256(content).hexdigest()}"


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value):
    assert files.fingerprint(value) == files.fingerprint(dict(reversed(value.items())))


def test_a_fingerprint_tells_values_apart():
    values = [1, 1.5, "1", [1], [[1]], {"1": 1}, None, True, [1, 2], [2, 1]]
    prints = {files.fingerprint(value) for value in values}
    assert len(prints) == len(values)
    assert all(len(one) == 16 for one in prints)


def test_a_fingerprint_is_the_same_in_every_process_and_release():
    assert files.fingerprint({"b": [1, 2.5], "a": None}) == "e57f5d37865437a8"
    with pytest.raises(ValueError, match="JSON"):
        files.fingerprint(float("inf"))


def test_a_folder_is_removed_though_somebody_makes_files_in_it_meanwhile(tmp_path, monkeypatch):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    remove = shutil.rmtree

    def with_somebody(path, **how):
        """A process that ends: it writes where it has always written, as soon as the removal has begun."""
        try:
            (tmp_path / "folder" / "late.log").write_text("x")
        except FileNotFoundError:
            turned_away.append(path)
        remove(path, **how)

    turned_away = []
    monkeypatch.setattr(files.shutil, "rmtree", with_somebody)
    files.remove_folder(tmp_path / "folder")
    assert turned_away
    assert list(tmp_path.iterdir()) == []
    files.remove_folder(tmp_path / "folder")
    (tmp_path / "folder.gone").mkdir()
    (tmp_path / "folder.gone" / "left").touch()
    (tmp_path / "folder").mkdir()
    files.remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [], "what an earlier removal left, too"
