"""Tests shared by processes: whatever starts a Ray stays with one of them for as long as there is other work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sharing

TESTS = {"test_deep.py": 7, "test_plain.py": 5, "test_long.py": 4}


class Node:
    """A process that does what it is sent, when it is told to."""

    def __init__(self) -> None:
        self.gateway, self.shutting_down = SimpleNamespace(id="gw"), False
        self.waiting: list[int] = []
        self.done: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.waiting.extend(indices)

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.fixture
def shared(tmp_path: Path) -> tuple[Any, list[Node], list[str]]:
    """A scheduler, two nodes, and the names of the tests: seven with Ray, five quick ones, four of a slow file."""
    for name in TESTS:
        (tmp_path / name).write_text(f"@pytest.{sharing.MARK}" if name == "test_deep.py" else "")
    option = SimpleNamespace(loadscopereorder=True)
    config: Any = SimpleNamespace(rootpath=tmp_path, option=option, getvalue=lambda _: ["2*popen"])
    scheduler: Any = sharing.FromBothEnds(config, None)
    nodes = [Node(), Node()]
    names = [f"{file}::test_it[{number}]" for file, count in TESTS.items() for number in range(count)]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, names)
    scheduler.schedule()
    return scheduler, nodes, names


def work(scheduler: Any, node: Node, tests: int) -> None:
    for _ in range(tests):
        node.done.append(node.waiting.pop(0))
        scheduler.mark_test_complete(node, node.done[-1])


def test_one_process_has_ray_and_the_other_all_of_a_file(shared: tuple[Any, list[Node], list[str]]) -> None:
    scheduler, (first, second), names = shared
    work(scheduler, second, 9)
    work(scheduler, first, 3)
    assert [names[index] for index in second.done] == names[12:] + names[7:12], "from the end, file by file"
    assert [names[index] for index in first.done] == names[:3]


def test_where_nothing_else_is_left_the_other_helps_with_ray(shared: tuple[Any, list[Node], list[str]]) -> None:
    scheduler, (first, second), names = shared
    work(scheduler, second, len(names) - 7 + 2)
    assert second.done[-2:] == [6, 5]
    while first.waiting:
        work(scheduler, first, 1)
    while second.waiting:
        work(scheduler, second, 1)
    assert sorted(first.done + second.done) == list(range(len(names))), "each once"
    assert first.shutting_down
    assert second.shutting_down


def test_long_ones_are_begun_early_at_either_end(tmp_path: Path) -> None:
    def item(path: str, text: str, *marks: str) -> Any:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        return SimpleNamespace(path=tmp_path / path, get_closest_marker=lambda name: name in marks)

    items = [
        item("deep/test_ray.py", sharing.MARK),
        item("deep/test_slow.py", "", "slow"),
        item("deep/test_plain.py", ""),
        item("test_ray.py", sharing.MARK),
        item("test_plain.py", ""),
    ]
    expected = [items[index] for index in (3, 0, 2, 4, 1)]
    sharing.order(items)
    assert items == expected
