"""Waiting for descriptors in a way that close ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from bpfpin.syscall.waiter import Waiter
from support.wait import HANG_S, wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_it_returns_when_one_is_ready(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with Waiter([reader]) as waiter:
        assert not waiter.wait(0)
        os.write(writer, b"x")
        assert waiter.wait(5)


def test_close_wakes_everybody_and_ends_the_descriptors_last(pipe: tuple[int, int]) -> None:
    waiter = Waiter([pipe[0]])
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(waiter.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiter._waiting == 3)
    waiter.close()
    waiter.close()
    for thread in threads:
        thread.join(timeout=HANG_S)

    assert answers == [False] * 3
    assert not waiter.wait(60)


def test_a_lent_descriptor_is_readable_once_it_is_closed(pipe: tuple[int, int]) -> None:
    waiter = Waiter([pipe[0]])
    with waiter.watched() as fd:
        waiter.close()
        with Waiter([fd]) as other:
            assert other.wait(5)

    with pytest.raises(ValueError, match="closed"), waiter.watched():
        pass
