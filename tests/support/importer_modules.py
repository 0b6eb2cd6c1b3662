"""The modules beside the importers' tests, which are no package: the writers of replicas and of media."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "data" / "importers"


def load(name: str) -> ModuleType:
    """``replicas`` or ``media_writers``, loaded once."""
    key = f"importers_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, FOLDER / f"{name}.py")
        assert spec
        assert spec.loader
        # Dataclasses look their module up by name.
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]
