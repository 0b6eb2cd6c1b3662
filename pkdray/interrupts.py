"""Ctrl-C that is not lost: Python drops a KeyboardInterrupt raised inside a weakref callback, and imports run many."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticed() -> Iterator[Callable[[], None]]:
    """Notice every Ctrl-C within the block; yields a check that raises it again where its exception was dropped.

    Outside of the main thread, which alone receives signals, the check never raises.

    Example:
        >>> with noticed() as check:
        ...     check()
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
