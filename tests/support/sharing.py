"""How several pytest processes share the tests (pytest-xdist): Ray with one of them for as long as there is other work.

The tests are ordered with those that start a Ray at the front. The first process takes from the front, the others from
the end, and where they meet all is done: nobody waits at the end, and a second Ray is started only when nothing else
is left. The groups of ``--dist loadgroup`` are no help: with pytest 9.2 xdist ignores them (pytest-xdist #1386).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

MARK = "mark.ray"


class FromBothEnds(LoadScopeScheduling):
    """Units of work: a test of a file that marks Ray, or all tests of another file, as its fixtures are made once."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        # Theirs is by the number of tests; ours is the collection's, see ``order``.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if marks_ray(self.config.rootpath / file) else file

    def _assign_work_unit(self, node: Any) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


@cache
def marks_ray(path: Path) -> bool:
    """Whether a file has tests with the marker; whoever shares them out knows their names only."""
    return MARK in path.read_text(encoding="utf-8")


def order(items: list[pytest.Item]) -> None:
    """Sort for both ends: what takes long is never begun last.

    At the front those with Ray, of whole commands first; at the end files with slow tests.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (0, len(item.path.parts)) if marks_ray(item.path) else (1, item.path in slow))
