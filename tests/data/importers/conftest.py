"""The replicas of the three licensed sets, as fixtures."""

from __future__ import annotations

from types import ModuleType

import pytest
from importer_modules import load


@pytest.fixture(scope="session")
def replicas() -> ModuleType:
    """The module that writes miniature BioVid, Aff-Wild2 and RECOLA."""
    return load("replicas")
