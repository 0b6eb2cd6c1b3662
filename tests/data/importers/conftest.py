"""The replicas of the three licensed sets, as a fixture."""

from __future__ import annotations

from types import ModuleType

import pytest
import replicas as written


@pytest.fixture(scope="session")
def replicas() -> ModuleType:
    """The module that writes miniature BioVid, Aff-Wild2 and RECOLA."""
    return written
