"""The search for cycles, paused by several at a time."""

from __future__ import annotations

import gc

import pytest

from bpfpin.objects.maps import batch

MANY = batch.WORTH_A_PAUSE


def test_it_goes_on_when_the_last_one_is_done() -> None:
    first, second = batch.collector_paused(MANY), batch.collector_paused(MANY)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)

    assert gc.isenabled()


def test_an_exception_ends_the_pause() -> None:
    with pytest.raises(KeyError), batch.collector_paused(MANY):
        raise KeyError

    assert gc.isenabled()


def test_few_entries_are_not_worth_a_pause() -> None:
    with batch.collector_paused(MANY - 1):
        assert gc.isenabled()
