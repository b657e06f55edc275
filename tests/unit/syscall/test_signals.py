"""Signals that wait for the end of a block: none is lost, whatever ends the block."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from bpfpin.syscall.signals import signals_deferred


class Ended(BaseException):
    """What the handler of SIGTERM raises here."""


@pytest.fixture
def sigterm_raises() -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def fail_after(*numbers: int) -> None:
    with signals_deferred():
        for number in numbers:
            os.kill(os.getpid(), number)
        raise ValueError("no room")


def test_a_signal_is_delivered_after_a_block_that_fails_too() -> None:
    """The error is its cause: both are in the traceback, and a command can report both."""
    with pytest.raises(KeyboardInterrupt) as interrupted:
        fail_after(signal.SIGINT)

    assert repr(interrupted.value.__cause__) == "ValueError('no room')"


@pytest.mark.usefixtures("sigterm_raises")
def test_of_two_signals_both_are_delivered() -> None:
    with pytest.raises(Ended) as last:
        fail_after(signal.SIGINT, signal.SIGTERM)

    assert isinstance(last.value.__context__, KeyboardInterrupt)
    assert isinstance(last.value.__cause__, ValueError)


@pytest.mark.usefixtures("sigterm_raises")
def test_without_a_signal_the_error_stays_as_it_is_and_the_handlers_are_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="no room") as failed:
        fail_after()

    assert failed.value.__cause__ is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.usefixtures("sigterm_raises")
def test_an_inner_block_leaves_the_signal_to_the_outer_one() -> None:
    steps: list[str] = []

    def change() -> None:
        with signals_deferred():
            try:
                fail_after(signal.SIGTERM)
            except ValueError:
                steps.append("rolled back")

    with pytest.raises(Ended):
        change()
    assert steps == ["rolled back"]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(ValueError, match="no room"):
            fail_after(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_python_cannot_install_again_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library in C installed it: nothing could put it back after the block."""
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: received.append(number))
    monkeypatch.setattr(
        signal,
        "getsignal",
        lambda number, real=signal.getsignal: None if number == signal.SIGHUP else real(number),
    )
    try:
        with signals_deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == [signal.SIGHUP]
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert received == [signal.SIGHUP] * 2
