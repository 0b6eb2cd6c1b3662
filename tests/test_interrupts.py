"""A Ctrl-C whose exception Python drops is raised again at the next check."""

from __future__ import annotations

import signal
import sys
import threading
import weakref

import pytest

from pkdray.interrupts import heed, noticed, terminated_like_interrupted


class Thing:
    """Something that a weak reference can watch."""


def test_a_ctrl_c_that_is_dropped_in_a_weakref_callback_is_raised_at_the_check() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noticed() as check:
        check()
        thing = Thing()
        watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        assert watch() is None
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_no_stack_trace_is_printed_of_a_dropped_ctrl_c_but_of_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    hook = sys.unraisablehook

    def fail(_: object) -> None:
        raise ArithmeticError

    with noticed() as check:
        for callback in (lambda _: signal.raise_signal(signal.SIGINT), fail):
            thing = Thing()
            watch = weakref.ref(thing, callback)
            del thing
            assert watch() is None
        with pytest.raises(KeyboardInterrupt):
            check()
    assert told == [ArithmeticError]
    assert sys.unraisablehook is hook


def test_an_ordinary_ctrl_c_interrupts_at_once() -> None:
    with noticed(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_sigterm_is_a_ctrl_c_within_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with noticed() as check, pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        check()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_script_had_ignored_interrupts_again_and_a_handler_stays() -> None:
    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        heed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, handler)
        heed()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_that_gets_no_signals_may_use_it_too() -> None:
    done = []

    def work() -> None:
        with noticed() as check:
            check()
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
