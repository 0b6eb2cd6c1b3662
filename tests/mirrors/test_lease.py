"""A lease: one holder at a time over machines that share nothing but an S3 server, by that server's clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from s3 import Server

from pkdray import mirrors
from pkdray.locks import BusyError
from pkdray.mirrors import LEASE_FILE, Lease, lease_holder
from pkdray.mirrors.lease import STALE_SECONDS

Move = Callable[[str], None]


@pytest.fixture
def place(s3_server: Server, machine: Move) -> Callable[[], Path]:
    """The folder on the machine that is looked from."""
    return lambda: mirrors.open_root(s3_server.uri("runs", "k"))


@pytest.fixture
def pass_by(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the storage's own clock ahead: ``pass_by(seconds)``; it stands otherwise."""
    # Without a zone, as moto has it.
    now = [datetime.now(UTC).replace(tzinfo=None)]

    def ahead(seconds: float) -> None:
        now[0] += timedelta(seconds=seconds)

    # The server is a thread of this process.
    monkeypatch.setattr("moto.s3.models.utcnow", lambda: now[0])
    return ahead


def at_once(seconds: float) -> None:
    """The pause of a lease that waits for nobody: only for those who wanted it in the same moment."""
    assert seconds <= 1.0


def test_of_two_that_find_a_lease_free_in_one_moment_one_has_it(place: Callable[[], Path], machine: Move) -> None:
    def meanwhile(_: float) -> None:
        # The other one looked before the first had written.
        mirrors.write(place() / LEASE_FILE, b'{"holder": "process 2 on b", "token": "2"}')

    first = Lease(place(), "process 1 on a", meanwhile)
    with pytest.raises(BusyError) as refused:
        first.take()
    assert refused.value.holder == "process 2 on b"
    assert lease_holder(place()) == "process 2 on b"


def test_a_lease_that_is_kept_refuses_another_machine(
    place: Callable[[], Path], machine: Move, pass_by: Callable[[float], None]
) -> None:
    first = Lease(place(), "process 1 on a", pause=at_once)
    first.take()
    machine("b")
    # While the other one looks, the storage's clock goes on by a second, and the holder writes.
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        pass_by(1)
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
    Lease(place(), "process 1 on a", at_once).take()
    # Killed: its process's lock on this machine is free, so it is known to be gone.
    again = Lease(place(), "process 2 on a", at_once)
    again.take()
    assert lease_holder(place()) == "process 2 on a"
    again.give_back()
    assert lease_holder(place()) is None
    machine("b")
    Lease(place(), "process 3 on b", at_once).take()
    assert lease_holder(place()) == "process 3 on b"


def test_a_dead_holders_lease_is_taken_after_a_while_and_the_dead_one_notices(
    place: Callable[[], Path], machine: Move, pass_by: Callable[[float], None]
) -> None:
    dead = Lease(place(), "process 1 on a", at_once)
    dead.take()
    machine("b")
    passed: list[float] = []

    def pause(_: float) -> None:
        passed.append(STALE_SECONDS / 2)
        pass_by(passed[-1])

    Lease(place(), "process 2 on b", pause).take()
    # Not after STALE_SECONDS but after more; the last pause is for others who wanted it in the same moment.
    assert sum(passed[:-1]) == 1.5 * STALE_SECONDS, "by the storage's clock"
    assert lease_holder(place()) == "process 2 on b"
    machine("a")
    dead.refresh()
    assert dead.lost
    assert lease_holder(place()) == "process 2 on b", "and leaves it alone"


def test_who_slept_while_another_took_the_run_and_ended_has_lost_it(place: Callable[[], Path], machine: Move) -> None:
    asleep = Lease(place(), "process 1 on a", at_once)
    asleep.take()
    machine("b")
    # Took it over, swept to the end, and gave it back.
    mirrors.delete(place() / LEASE_FILE)
    machine("a")
    asleep.refresh()
    assert asleep.lost
    assert lease_holder(place()) is None, "and does not take it again"
    machine("b")
    next_one = Lease(place(), "process 3 on b", at_once)
    next_one.take()
    machine("a")
    asleep.give_back()
    assert lease_holder(place()) == "process 3 on b", "it is not the sleeper's to give back"


def test_a_refresh_that_comes_after_the_end_does_not_write_the_lease_again(place: Callable[[], Path]) -> None:
    lease = Lease(place(), "process 1 on a", at_once)
    lease.take()
    lease.give_back()
    lease.refresh()
    assert lease_holder(place()) is None
    assert not lease.lost, "it was not lost but given back"


def test_the_work_is_interrupted_once_its_lease_is_lost(place: Callable[[], Path]) -> None:
    lease = Lease(place(), "process 1 on a", at_once)
    lease.take()
    lease.keep()
    mirrors.write(place() / LEASE_FILE, b'{"holder": "process 2 on b", "token": "2"}')

    def lose() -> None:
        lease.keep()
        # Where the interrupt arrives.
        threading.Event().wait(20)

    with pytest.raises(KeyboardInterrupt):
        lose()
    lease.keep()
    assert lease.lost
