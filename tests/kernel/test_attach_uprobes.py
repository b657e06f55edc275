"""The library's functions for programs at functions of user programs."""

from __future__ import annotations

import pytest

from bpfpin import Loaded, WrongHookError, attach_uprobe, load
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import LinkType
from support.objects import compiled_with_headers
from support.user_program import probed, running

ENTRY, RETURN, ARGUMENT, COOKIE = range(4)


def loaded(*programs: str) -> Loaded:
    return load(read_object(compiled_with_headers("attach/user_functions")), programs=programs)


def test_a_probe_has_its_cookie_and_ends_with_its_link() -> None:
    with loaded("on_entry", "on_return") as made, running() as process:
        seen, programs = made.maps["seen"], made.programs
        with attach_uprobe(programs["on_entry"], probed(), "probed_sum", cookie=77) as link:
            process.call(2)
            link_type = link.info.type
        with attach_uprobe(
            programs["on_return"], probed(), "probed_sum", pid=process.pid, returns=True
        ):
            process.call(3)
        process.call(5)

        assert [seen[kind] for kind in (ENTRY, RETURN, COOKIE)] == [2, 3, 77]
        assert seen[ARGUMENT] == 11  # the result of probed_sum(1, 10)
        assert link_type == LinkType.PERF_EVENT


def test_a_program_of_another_type_is_refused() -> None:
    tracing = read_object(compiled_with_headers("tracing"))
    with load(tracing, programs=["on_call"]) as made, pytest.raises(WrongHookError):
        attach_uprobe(made.programs["on_call"], probed(), "probed_sum")
