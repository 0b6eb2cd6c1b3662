"""What a set is expected to look like is what its importer, asked for nothing else, is about to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pkdray.data.importers import build
from pkdray.data.importers.expected import expected_info


@pytest.mark.parametrize("name", ["biovid", "affwild2", "recola"])
def test_it_is_what_the_import_will_make(tmp_path: Path, replicas: ModuleType, name: str) -> None:
    write: dict[str, Callable[[Path], object]] = {
        "biovid": replicas.write_biovid_replica,
        "affwild2": replicas.write_affwild2_replica,
        "recola": replicas.write_recola_replica,
    }
    write[name](tmp_path / name)
    scan, modalities = build.scan_for(name, tmp_path / name)
    protocol = {"biovid": "5-fold"}.get(name, "train/dev")
    made = build.make_plan(tmp_path / "out", scan, build.media_options(scan, modalities), protocol=protocol).info
    expected = expected_info(name)
    for field in ("task", "targets", "classes", "target_frames", "modalities", "source"):
        assert getattr(expected, field) == getattr(made, field), field


def test_another_set_is_unknown() -> None:
    with pytest.raises(KeyError):
        expected_info("mfeat")
