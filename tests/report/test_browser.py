"""The page in a real browser: everything drawn, nothing fetched, links, sorting, the dark switch, a phone, print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from browsing import FIGURES, Visit, drawn, visit_page

from pkdray.report import Written

TASKS = ["classification", "regression"]


@pytest.fixture(scope="module")
def visit(browser: Any, written: dict[str, Written]) -> Iterator[Callable[..., Visit]]:
    """Opens a report and waits until all is drawn: ``visit("regression", width=390, dark=True)``; a page is shared."""
    seen = []

    @cache
    def open_page(task: str, *, width: int = 1280, dark: bool = False, touch: bool = False) -> Visit:
        seen.append(visit_page(browser, written[task].path, width=width, dark=dark, touch=touch))
        return seen[-1]

    yield open_page
    for one in seen:
        one.context.close()


@pytest.mark.parametrize("task", TASKS)
def test_every_figure_is_drawn_and_nothing_is_fetched_or_reported(
    task: str, visit: Callable[..., Visit], written: dict[str, Written]
) -> None:
    seen = visit(task)
    figures = seen.page.evaluate(FIGURES)
    assert len(figures) == written[task].figures > 25
    assert seen.empty_figures == []
    assert seen.faults == []
    # The names in the data that would be scripts and tags are text, in tables and in figures.
    assert seen.page.locator("section b u, section i, .tile b b, svg script").count() == 0
    if task == "classification":
        assert "calm</script><script>boom()</script>" in seen.page.locator("#answers").inner_text()
        # Cut to what an axis has room for.
        assert "joy & <b>fun<…" in "".join(seen.page.locator("#answers svg").all_text_contents())


def test_the_table_of_contents_leads_to_every_section(visit: Callable[..., Visit]) -> None:
    page = visit("classification").page
    links = page.locator("nav a")
    targets = [link.get_attribute("href") for link in links.all()]
    assert len(targets) == len(set(targets)) == page.locator("main > section").count() == 11
    for index, target in enumerate(targets):
        links.nth(index).click()
        assert page.url.endswith(target)
        heading = page.locator(f"main > section{target} > h2")
        assert heading.inner_text() == links.nth(index).inner_text()
        page.wait_for_function(
            "(target) => { const box = document.querySelector(target).getBoundingClientRect();"
            " return box.top < innerHeight && box.bottom > 0; }",
            arg=target,
        )


def column(page: Any, index: int) -> list[str]:
    return [
        row.locator("td").nth(index).inner_text() for row in page.locator("#trials tbody").first.locator("tr").all()
    ]


def test_tables_sort_by_click_and_by_keyboard_numbers_as_numbers_and_nothing_last(visit: Callable[..., Visit]) -> None:
    page = visit("classification").page
    heads = page.locator("#trials table").first.locator("th")
    names = [head.inner_text() for head in heads.all()]
    score, epsilon = (
        next(i for i, name in enumerate(names) if name.startswith(one)) for one in ("accuracy", "epsilon")
    )
    assert column(page, 0) == [str(number) for number in range(27)]

    heads.nth(score).locator("button").click()
    assert heads.nth(score).get_attribute("aria-sort") == "ascending"
    values = column(page, score)
    assert values[-1] == "–"
    known = [float(value) for value in values if value != "–"]
    assert len(known) == 26
    assert known == sorted(known)

    heads.nth(score).locator("button").focus()
    page.keyboard.press("Enter")
    assert heads.nth(score).get_attribute("aria-sort") == "descending"
    values = column(page, score)
    assert [float(value) for value in values[:26]] == known[::-1]
    assert values[-1] == "–"

    heads.nth(epsilon).locator("button").click()
    assert heads.nth(score).get_attribute("aria-sort") == "none"
    drawn_values = [float(value) for value in column(page, epsilon) if value]
    assert len(drawn_values) > 5
    assert drawn_values == sorted(drawn_values)


GROUND = """
() => [
  getComputedStyle(document.querySelector("section")).backgroundColor,
  ...[...document.querySelectorAll(".plot")].map((place) => place._fullLayout.paper_bgcolor),
]
"""


@pytest.mark.parametrize("dark", [False, True])
def test_the_switch_redraws_every_figure_and_the_systems_choice_comes_first(
    dark: bool, visit: Callable[..., Visit]
) -> None:
    seen = visit("regression", dark=dark)
    light, night = ({"rgb(255, 255, 255)", "#ffffff"}, {"rgb(22, 27, 32)", "#161b20"})
    first, second = (night, light) if dark else (light, night)
    assert set(seen.page.evaluate(GROUND)) == first
    button = seen.page.locator("#theme")
    assert button.inner_text() == ("Light" if dark else "Dark")
    button.click()
    drawn(seen.page)
    assert set(seen.page.evaluate(GROUND)) == second
    student = "document.querySelector('#summary .plot')._fullData.at(-1).marker.color"
    assert seen.page.evaluate(student) == ("#009e73" if dark else "#45c79c")
    button.click()
    drawn(seen.page)
    assert set(seen.page.evaluate(GROUND)) == first
    assert seen.faults == []


# At 445 the last label of a time line once made it so narrow that the label went, and so on for ever.
@pytest.mark.parametrize(("task", "width"), [("classification", 390), ("regression", 390), ("regression", 445)])
def test_on_a_phone_the_page_never_scrolls_sideways(task: str, width: int, visit: Callable[..., Visit]) -> None:
    seen = visit(task, width=width, touch=True)
    assert seen.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [width, width]
    inside = seen.page.locator("#trials .scroll").first
    assert inside.evaluate("(box) => box.scrollWidth > box.clientWidth"), "a wide table scrolls in its own frame"
    assert seen.page.evaluate(
        "[...document.querySelectorAll('.plot')].every((place) => place.querySelector('svg').clientWidth <= "
        "Math.max(innerWidth, parseInt(place.style.minWidth) || 0))"
    )
    assert seen.faults == []


def test_the_configuration_opens_and_can_be_copied(visit: Callable[..., Visit]) -> None:
    page = visit("classification").page
    box = page.locator("#reproduce details")
    assert not box.locator("pre").is_visible()
    box.locator("summary").click()
    assert "startup_trials: 27" in box.locator("pre").inner_text()
    # It says so for two seconds only.
    page.evaluate(
        "new MutationObserver(([first]) => { window.said ??= first.target.textContent; }).observe("
        "document.querySelector('#reproduce details .copy'), { childList: true })"
    )
    box.locator(".copy").click()
    page.wait_for_function("window.said")
    assert page.evaluate("window.said") in ("Copied", "Press Ctrl+C")


def test_it_prints_in_light_and_within_the_paper(visit: Callable[..., Visit]) -> None:
    seen = visit("regression", dark=True)
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    seen.page.wait_for_function("[...document.querySelectorAll('.plot')].every((one) => one._fullLayout.width <= 680)")
    assert set(seen.page.evaluate(GROUND)) == {"rgb(255, 255, 255)", "#ffffff"}
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    drawn(seen.page)
    assert "#161b20" in seen.page.evaluate(GROUND)
    assert seen.faults == []
