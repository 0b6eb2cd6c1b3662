"""Fixtures for the losses: one thread, reproducible tensors, and the NumPy reference."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def randn() -> Callable[..., Tensor]:
    """Float64 normal numbers from a stream of this test's own."""
    generator = torch.Generator().manual_seed(1729)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The module that made golden.json."""
    path = Path(__file__).with_name("make_golden.py")
    spec = importlib.util.spec_from_file_location("losses_make_golden", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # It imports the files beside it, as it does when it is run as a script.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
