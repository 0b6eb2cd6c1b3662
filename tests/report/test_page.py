"""The page's text: escaped, sortable, self-contained; and the command that writes it."""

from __future__ import annotations

import json
import re
import shutil
import sys
import webbrowser
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest
from command_line import Said
from report_runs import pretend_diagnostics

from pkdray.report import Facts, Written, sections
from pkdray.report.blocks import Cell, Missing, Plot, Plots, Section, Table, Text, plain
from pkdray.report.page import page, table_html
from pkdray.report.theme import legible
from pkdray.report.thinning import drawn, evenly, joined
from pkdray.search.run import Run


class Reader(HTMLParser):
    """Which tags a page has, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


NASTY = "</script><img src=x onerror=\"boom()\"> & 'co'"


def test_whatever_a_user_named_is_text(facts: Facts) -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=plain(NASTY), text=[NASTY, "ok"]))
    blocks = [
        Text(NASTY, NASTY),
        Missing(NASTY, NASTY),
        Table(NASTY, NASTY, [NASTY], [[NASTY], [Cell(NASTY, 3.5)]]),
        Plots(NASTY, NASTY, [Plot(figure, NASTY)]),
    ]
    said = Reader(page(NASTY, [Section("one", NASTY, blocks)]))
    tags = [tag for tag, _ in said.tags]
    assert "img" not in tags
    assert tags.count("script") == 3
    assert not any("onerror" in attributes for _, attributes in said.tags)
    assert sum(NASTY in text for text in said.texts) >= 10
    (stored,) = [text for text in said.texts if text.startswith('{"figures"')]
    assert json.loads(stored)["figures"][0]["data"][0]["text"] == [NASTY, "ok"]


def test_a_report_names_no_other_address_and_embeds_plotly_once(written: dict[str, Written]) -> None:
    text = written["classification"].path.read_text(encoding="utf-8")
    said = Reader(text)
    for tag, attributes in said.tags:
        assert tag not in ("link", "iframe", "img", "object", "base"), tag
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = [one["content"] for tag, one in said.tags if tag == "meta" and one.get("http-equiv")]
    assert "default-src 'none'" in str(policy)
    assert text.count("plotly.js v") == 1
    assert ("viewport", "width=device-width, initial-scale=1") in [
        (one.get("name"), one.get("content")) for tag, one in said.tags if tag == "meta"
    ]
    assert written["classification"].size == len(text.encode()) < 6_500_000


def test_cells_are_sorted_by_value_and_nothing_has_none() -> None:
    rows = [[1, 0.5, "a", None], [12345, float("nan"), True, Cell("2 min", 120.0)]]
    said = table_html(Table("t", "", ["count", "share", "word", "time"], rows))
    assert re.findall(r'data-value="([^"]*)"', said) == ["1", "0.5", "", "12345", "", "120.0"]
    assert said.count('aria-sort="none"') == 4
    assert ">12,345</td>" in said
    assert ">True</td>" in said


def test_thinning_keeps_the_ends_and_the_order() -> None:
    kept = evenly(1001, 101)
    assert (len(kept), kept[0], kept[-1]) == (101, 0, 1000)
    assert set(kept[1:] - kept[:-1]) == {10}
    some = drawn(10_000, 2000)
    assert len(set(some.tolist())) == 2000
    assert (some[1:] > some[:-1]).all()
    assert (some == drawn(10_000, 2000)).all()
    x, y = joined([([1, 2], [5.0, 6.0]), ([], []), ([3], [7.0])])
    assert len(x) == len(y)
    assert [value for value in y if value is not None] == [5.0, 6.0, 7.0]


def test_long_names_are_cut_before_they_are_escaped() -> None:
    said = legible(["joy & <b>fun</b>", "joy & <b>fury</b>", "fear"], 10)
    assert said == ["joy &amp; &lt;b&gt;… (1)", "joy &amp; &lt;b&gt;… (2)", "fear"]


def test_the_run_says_how_to_do_it_again(facts: Facts) -> None:
    (part,) = [one for one in sections(facts) if one.key == "reproduce"]
    commands = [block.command for block in part.blocks if isinstance(block, Text) and block.command]
    assert commands == [f"pkdray sweep {facts.run.path / 'run.yaml'} --name tiny-again"]
    facts.run.about["command"] = ["pkdray", "sweep", "my space.yaml", "--trials", "27"]
    try:
        (part,) = [one for one in sections(facts) if one.key == "reproduce"]
    finally:
        del facts.run.about["command"]
    first = part.blocks[0]
    assert isinstance(first, Text)
    assert first.command == "pkdray sweep 'my space.yaml' --trials 27"


# The command


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkdray.diagnostics", pretend_diagnostics("classification"))


def test_the_command_writes_beside_the_run_and_says_what_is_next(
    classified: Run,
    tmp_path: Path,
    pkdray: Callable[..., Said],
    pretended: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(classified.runs_dir, tmp_path / "runs")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    said = pkdray("report", "tiny", "--open")
    file = tmp_path / "runs" / "tiny" / "report.html"
    assert said.code == 0, said.err
    assert file.stat().st_size > 4e6
    assert "runs/tiny/report.html" in said.out
    assert "pkdray export runs/tiny -o student" in said.out
    assert opened == [file.resolve().as_uri()]
    assert list(file.parent.glob(".report*")) == []


def test_what_cannot_be_read_is_told_in_the_page_and_does_not_fail_the_rest(
    regressed: Run, tmp_path: Path, pkdray: Callable[..., Said], pretended: None
) -> None:
    shutil.copytree(regressed.runs_dir, tmp_path / "runs")
    about = tmp_path / "runs" / "tiny" / "run.yaml"
    data = str(regressed.about["dataset_path"])
    about.write_text(about.read_text().replace(data, str(tmp_path / "moved")))
    said = pkdray("report", "tiny", "--json", "-o", "elsewhere/page.html")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["path"] == "elsewhere/page.html"
    assert found["size"] == (tmp_path / "elsewhere" / "page.html").stat().st_size
    assert "There is no dataset" in found["left_out"]["Answers beside labels"]
    assert "There is no dataset" in found["left_out"]["Similarity matrices"]
    assert found["figures"] > 10
    assert not (tmp_path / "runs" / "tiny" / "report.html").exists()


def test_a_run_that_is_not_there_is_a_mistake_of_the_user(pkdray: Callable[..., Said]) -> None:
    said = pkdray("report", "no-such-run")
    assert said.code == 2
    assert "There is no run 'no-such-run'" in said.err
