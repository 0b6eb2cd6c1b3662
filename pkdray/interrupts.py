"""A Ctrl-C or SIGTERM that is not lost.

Python drops a KeyboardInterrupt raised inside a weakref callback, and imports run many. It prints a stack trace of what
it drops.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def heed() -> None:
    """Have this process interrupted by Ctrl-C's signal also where whoever started it had it ignored.

    A shell script has what it puts in the background (``pkdray evaluate ... &``) ignore it. There `kill`, and a run
    that is taken over by another machine, would end nothing outside of `noticed` either: both interrupt with that
    signal. Call it in the main thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Take SIGTERM, by which a cluster ends a process, for a Ctrl-C: what is running is kept, and the user told so.

    Enter it after Ray is connected, whose own handler prints a stack trace and ends the process. Outside of the main
    thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        # None: it was not Python that had set it.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def noticed() -> Iterator[Callable[[], None]]:
    """Notice every Ctrl-C within the block; yields a check that raises it again where its exception was dropped.

    The stack trace of a dropped one is not printed: the check tells of it. Outside of the main thread, which alone
    receives signals, the check never raises.

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

    tell = sys.unraisablehook

    def tell_others(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            tell(dropped)

    before = signal.signal(signal.SIGINT, notice)
    sys.unraisablehook = tell_others
    try:
        yield check
    finally:
        sys.unraisablehook = tell
        signal.signal(signal.SIGINT, before)
