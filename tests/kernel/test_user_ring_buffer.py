"""User ring buffers: records of ours, drained by a real program."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bpfpin.errors import BusyError, MapFullError
from bpfpin.objects.events.source import NAP_S
from bpfpin.objects.events.user_ring_buffer import UserRingBuffer
from bpfpin.syscall.waiter import Waiter
from support.events import RING_SIZE, Teller, teller

COMMAND = {"add": 5, "name": "five"}
TAKEN = 24  # bytes of a command with its header


@pytest.fixture
def programs() -> Iterator[Teller]:
    with teller() as made:
        yield made


@pytest.fixture
def commands(programs: Teller) -> Iterator[UserRingBuffer]:
    with ring_of(programs) as opened:
        yield opened


def ring_of(programs: Teller, **reading: Any) -> UserRingBuffer:
    reading = {"event_type": "struct command", **reading}
    return UserRingBuffer.of(programs.loaded.maps["commands"], **reading)


def test_a_program_gets_the_records_in_order(programs: Teller, commands: UserRingBuffer) -> None:
    commands.submit(COMMAND)
    commands.submit({"add": 7, "name": ""})

    assert commands.available_bytes == 2 * TAKEN
    programs.run("drain")
    assert (programs.seen("sum"), programs.seen("commands")) == (12, 2)
    assert commands.available_bytes == 0


def test_records_go_on_behind_the_end_of_the_ring(
    programs: Teller, commands: UserRingBuffer
) -> None:
    for _ in range(10):
        for number in range(100):
            commands.submit({"add": number, "name": "many"})
        programs.run("drain")

    assert programs.seen("sum") == 10 * sum(range(100))
    assert programs.seen("commands") == 1000


def test_a_full_ring_is_told_and_takes_more_once_it_is_drained(
    programs: Teller, commands: UserRingBuffer
) -> None:
    for _ in range(RING_SIZE // TAKEN):
        commands.submit(COMMAND)
    with pytest.raises(MapFullError, match=r"no room for 16 bytes: 4080 of 4096 wait"):
        commands.submit(COMMAND)

    assert commands.room_bytes == RING_SIZE % TAKEN
    programs.run("drain")
    commands.submit(COMMAND)
    assert commands.available_bytes == TAKEN


def test_a_record_may_fill_the_whole_ring(programs: Teller, commands: UserRingBuffer) -> None:
    for _ in range(3):
        commands.submit((9).to_bytes(8, "little") + bytes(RING_SIZE - 16))
        programs.run("drain")

    assert commands.available_bytes == 0
    assert programs.seen("sum") == 27


def test_one_that_is_longer_never_fits(commands: UserRingBuffer) -> None:
    with pytest.raises(ValueError, match=r"4089 bytes is too long .* takes 4088 at most"):
        commands.submit(bytes(RING_SIZE - 7))

    assert commands.available_bytes == 0


def test_waiting_for_room_ends_when_a_program_drains(
    programs: Teller, commands: UserRingBuffer
) -> None:
    commands.submit(bytes(RING_SIZE - 8))
    later = threading.Timer(0.03, programs.run, args=("drain",))
    later.start()
    commands.submit(COMMAND, timeout_s=5)
    later.join()

    assert commands.available_bytes == TAKEN
    with pytest.raises(MapFullError):
        commands.submit(bytes(RING_SIZE - 8), timeout_s=0.01)


def test_waiting_with_too_little_room_does_not_spin(
    commands: UserRingBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel calls a ring writable that has any free byte; the record needs more."""
    waits = 0
    wait = Waiter.wait

    def counted(waiter: Waiter, timeout_s: float) -> bool:
        nonlocal waits
        waits += 1
        return wait(waiter, timeout_s)

    monkeypatch.setattr(Waiter, "wait", counted)
    commands.submit(bytes(3000))
    with pytest.raises(MapFullError):
        commands.submit(bytes(3000), timeout_s=0.2)

    assert waits <= 0.2 / NAP_S + 2


def test_what_does_not_fit_the_type_is_refused(commands: UserRingBuffer) -> None:
    with pytest.raises(ValueError, match="add"):
        commands.submit({"add": -1, "name": ""})
    with pytest.raises(ValueError, match="name"):
        commands.submit({"add": 1})
    with pytest.raises(TypeError):
        commands.submit("text")

    assert commands.available_bytes == 0


def test_without_a_type_only_bytes_are_taken(programs: Teller) -> None:
    with ring_of(programs, event_type=None) as commands:
        commands.submit(memoryview((3).to_bytes(16, "little")))
        with pytest.raises(TypeError, match="bytes"):
            commands.submit(COMMAND)

    programs.run("drain")
    assert programs.seen("sum") == 3


def test_a_second_writer_is_refused(programs: Teller, commands: UserRingBuffer) -> None:
    commands.submit(COMMAND)
    with ring_of(programs) as second, pytest.raises(BusyError, match="already"):
        second.submit(COMMAND)


def test_threads_share_a_handle(programs: Teller, commands: UserRingBuffer) -> None:
    def write() -> None:
        for _ in range(50):
            commands.submit({"add": 1, "name": ""})

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    programs.run("drain")
    assert (programs.seen("sum"), programs.seen("commands")) == (150, 150)


def test_a_closed_ring_says_so(programs: Teller) -> None:
    commands = ring_of(programs)
    commands.close()

    with pytest.raises(ValueError, match="the map is closed"):
        commands.submit(COMMAND)
