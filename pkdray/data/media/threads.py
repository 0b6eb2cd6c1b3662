"""One thread for what becomes data: the order in which several add up would show in the last bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread within the block, and on as many as before after it.

    A face's box that moves by a millionth of a pixel with the number of cores may round a pixel of its picture to
    another value; then the same recordings would give another dataset on another machine. More cores are for more
    processes.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
