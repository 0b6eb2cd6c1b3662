"""A lease: one holder at a time over machines that share nothing but an S3 server, by that server's clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from s3 import Server

from pkdray import mirrors
from pkdray.locks import BusyError
from pkdray.mirrors import LEASE_FILE, Lease, lease_holder

Move = Callable[[str], None]


@pytest.fixture
def place(s3_server: Server, machine: Move) -> Callable[[], Path]:
    """The folder on the machine that is looked from."""
    return lambda: mirrors.open_root(s3_server.uri("runs", "k"))


def test_a_lease_that_is_kept_refuses_another_machine(place: Callable[[], Path], machine: Move) -> None:
    first = Lease(place(), "process 1 on a", pause=pytest.fail)
    first.take()
    machine("b")
    # While the other one looks, the storage's clock goes on by a second, and the holder writes.
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        threading.Event().wait(1.1)
        machine("a")
        first.refresh()
        machine("b")

    with pytest.raises(BusyError) as refused:
        Lease(place(), "process 2 on b", pause).take()
    assert waited
    assert refused.value.holder == "process 1 on a"
    assert lease_holder(place()) == "process 1 on a"
    assert mirrors.folders(place().parent) == ["k"]


def test_a_lease_given_back_or_of_this_very_machine_is_had_at_once(place: Callable[[], Path], machine: Move) -> None:
    Lease(place(), "process 1 on a", pytest.fail).take()
    # Killed: its process's lock on this machine is free, so it is known to be gone.
    again = Lease(place(), "process 2 on a", pytest.fail)
    again.take()
    assert lease_holder(place()) == "process 2 on a"
    again.give_back()
    assert lease_holder(place()) is None
    machine("b")
    Lease(place(), "process 3 on b", pytest.fail).take()
    assert lease_holder(place()) == "process 3 on b"


def test_a_dead_holders_lease_is_taken_after_a_while_and_the_dead_one_notices(
    place: Callable[[], Path], machine: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Lease(place(), "process 1 on a", pytest.fail)
    dead.take()
    machine("b")
    monkeypatch.setattr("pkdray.mirrors.lease.STALE_SECONDS", 2)
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        threading.Event().wait(1.0)

    Lease(place(), "process 2 on b", pause).take()
    assert 2 <= len(waited) <= 6, "by the storage's clock"
    assert lease_holder(place()) == "process 2 on b"
    machine("a")
    dead.refresh()
    assert dead.lost
    assert lease_holder(place()) == "process 2 on b", "and leaves it alone"


def test_who_slept_while_another_took_the_run_and_ended_has_lost_it(place: Callable[[], Path], machine: Move) -> None:
    asleep = Lease(place(), "process 1 on a", pytest.fail)
    asleep.take()
    machine("b")
    # Took it over, swept to the end, and gave it back.
    mirrors.delete(place() / LEASE_FILE)
    machine("a")
    asleep.refresh()
    assert asleep.lost
    assert lease_holder(place()) is None, "and does not take it again"
    machine("b")
    next_one = Lease(place(), "process 3 on b", pytest.fail)
    next_one.take()
    machine("a")
    asleep.give_back()
    assert lease_holder(place()) == "process 3 on b", "it is not the sleeper's to give back"
