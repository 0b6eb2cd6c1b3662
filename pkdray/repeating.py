"""Something done again and again beside what a program waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def repeating(action: Callable[[], object], seconds: float, name: str = "pkdray-repeating") -> Iterator[None]:
    """Call ``action`` every so many seconds within the block, from a thread; what it raises is logged.

    Args:
        action: what is to be done; it is never called by two threads at once, nor after the block.
        seconds: from the end of one call to the beginning of the next; the first comes after so many, too.
        name: of the thread.

    Example:
        >>> import threading
        >>> thrice, calls = threading.Event(), []
        >>> with repeating(lambda: calls.append(1) or (len(calls) == 3 and thrice.set()), 0.001):
        ...     thrice.wait(20)
        True
    """
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            try:
                action()
            except Exception:
                # The edge of a thread: were it to end in silence, what it keeps alive would count as dead.
                logger.exception("%s failed, and is tried again in %g s", name, seconds)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
