"""Something done again and again beside a block, and not after it."""

from __future__ import annotations

import contextlib
import threading

import pytest

from pkdray.repeating import repeating


def test_it_is_done_until_the_block_ends_whatever_ends_it() -> None:
    calls, third = [], threading.Event()

    def act() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            third.set()

    with contextlib.suppress(ZeroDivisionError), repeating(act, 0.001, "heart"):
        assert third.wait(20)
        raise ZeroDivisionError
    assert set(calls) == {"heart"}
    assert not [thread for thread in threading.enumerate() if thread.name == "heart"]


def test_what_it_raises_is_logged_and_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    calls, third = [], threading.Event()

    def act() -> None:
        calls.append(1)
        if len(calls) == 3:
            third.set()
        raise ArithmeticError

    with repeating(act, 0.001, "heart"):
        assert third.wait(20)
    assert "heart failed" in caplog.text


def test_the_first_comes_after_the_interval_so_a_short_block_has_none() -> None:
    calls: list[int] = []
    with repeating(lambda: calls.append(1), 600):
        pass
    assert calls == []
