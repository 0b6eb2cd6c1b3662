"""A report in a real browser: opened, drawn to its end, and everything noted that it should not have done."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patience import PATIENCE_SECONDS

CHROMIUM = os.environ.get("PKDRAY_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FIGURES = """
[...document.querySelectorAll(".plot")].map((place) => {
  const box = place.querySelector("svg.main-svg").getBoundingClientRect();
  const marks = place.querySelectorAll(
    ".scatterlayer .trace, .barlayer .trace, .heatmaplayer image, .hm image, .contourlayer .contour");
  return {
    name: place.getAttribute("aria-label"), width: box.width, height: box.height, traces: place.data.length,
    marks: marks.length,
  };
})
"""


@dataclass
class Visit:
    """An open page, and what it did that it should not have."""

    page: Any
    context: Any
    faults: list[str] = field(default_factory=list)

    @property
    def empty_figures(self) -> list[str]:
        """Figures without a size or without a mark."""
        figures = self.page.evaluate(FIGURES)
        return [one for one in figures if not (one["width"] > 150 and one["height"] > 100 and one["marks"])]


def visit_page(browser: Any, path: Path, *, width: int = 1280, dark: bool = False, touch: bool = False) -> Visit:
    """Open a report and wait until all is drawn; requests for anything else are refused and noted."""
    context = browser.new_context(
        viewport={"width": width, "height": 850},
        color_scheme="dark" if dark else "light",
        has_touch=touch,
        is_mobile=touch,
        reduced_motion="reduce",
    )
    # Without a graphics card, and beside other tests, 25 figures take their time.
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    context.set_default_navigation_timeout(1000 * PATIENCE_SECONDS)
    seen = Visit(context.new_page(), context)
    here = path.as_uri()

    def route(route: Any) -> None:
        if route.request.url.partition("#")[0] == here:
            route.continue_()
            return
        seen.faults.append(f"request {route.request.url}")
        route.abort()

    context.route("**/*", route)
    seen.page.on("console", lambda message: seen.faults.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.faults.append(f"error: {error}"))
    seen.page.goto(here)
    drawn(seen.page)
    return seen


def drawn(page: Any) -> None:
    """Wait until every figure is drawn."""
    page.wait_for_function("document.documentElement.dataset.drawn")
