"""The replicas of the three licensed sets, as fixtures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_replicas() -> ModuleType:
    path = Path(__file__).with_name("replicas.py")
    spec = importlib.util.spec_from_file_location("dataset_replicas", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def replicas() -> ModuleType:
    """The module that writes miniature BioVid, Aff-Wild2 and RECOLA."""
    return load_replicas()
