"""Two runs to report on: an evaluated classification, and a regression with targets a frame that is not evaluated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM
from report_runs import make_run, pretend_diagnostics

from pkdray.report import Facts, Written, gather, write_report
from pkdray.search.run import Run


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("classified"), "classification", evaluated=True)


@pytest.fixture(scope="session")
def regressed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("regressed"), "regression", evaluated=False)


@pytest.fixture(scope="session")
def facts(classified: Run) -> Facts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkdray.diagnostics", pretend_diagnostics("classification"))
        return gather(classified)


@pytest.fixture(scope="session")
def framed(regressed: Run) -> Facts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkdray.diagnostics", pretend_diagnostics("regression"))
        return gather(regressed)


@pytest.fixture(scope="session")
def written(classified: Run, regressed: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Both reports on disk."""
    folder: Path = tmp_path_factory.mktemp("written")
    result = {}
    for task, run in (("classification", classified), ("regression", regressed)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "pkdray.diagnostics", pretend_diagnostics(task))
            result[task] = write_report(run, folder / f"{task}.html")
    return result


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests that use it are skipped where it or playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing: pip install it")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or name one in PKDRAY_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
