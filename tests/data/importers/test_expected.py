"""What a set is expected to look like is what its importer, asked for nothing else, is about to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pkdray.data.importers import build
from pkdray.data.importers.affwild2 import WINDOW_CLIPS
from pkdray.data.importers.expected import expected_info


@pytest.mark.parametrize("name", ["biovid", "affwild2", "recola"])
def test_it_is_what_the_import_will_make(tmp_path: Path, replicas: ModuleType, name: str) -> None:
    write: dict[str, Callable[[Path], object]] = {
        "biovid": replicas.write_biovid_replica,
        "affwild2": replicas.write_affwild2_replica,
        "recola": replicas.write_recola_replica,
    }
    write[name](tmp_path / name)
    # What the command line asks for where nothing is said.
    options = {"window": WINDOW_CLIPS} if name == "affwild2" else {}
    scan, modalities = build.scan_for(name, tmp_path / name, **options)
    protocol = {"biovid": "5-fold"}.get(name, "train/dev")
    made = build.make_plan(tmp_path / "out", scan, build.media_options(scan, modalities), protocol=protocol).info
    expected = expected_info(name)
    for field in ("task", "targets", "classes", "target_frames", "modalities", "source"):
        assert getattr(expected, field) == getattr(made, field), field


def test_another_set_is_unknown() -> None:
    with pytest.raises(KeyError):
        expected_info("mfeat")


DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"


@pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
@pytest.mark.parametrize(("name", "section"), [("biovid", "## BioVid"), ("recola", "## RECOLA")])
def test_the_page_about_the_sets_says_the_shapes_and_bytes_that_are_made(name: str, section: str) -> None:
    text = DOCS.read_text(encoding="utf-8").partition(f"\n{section}")[2].partition("\n## ")[0]
    modalities = expected_info(name).modalities
    assert len(modalities) == 4
    for key, modality in modalities.items():
        row = next(line for line in text.splitlines() if line.startswith("| ") and f"`{key}`" in line.split("|")[1])
        assert str(list(modality.shape)) in row
        assert f"{modality.size * modality.dtype.itemsize:,}" in row
