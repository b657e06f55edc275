"""A process that waits beside a trial is known by what it holds; no other is taken for one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins.directory import Directory
from bpfpin.pins.trial import TrialPlace, command_deadline_ms
from bpfpin.sets.trial import (
    MODULE,
    Waiting,
    end_orphans,
    end_process,
    start_waiting,
    waiting_processes,
)
from support.nobody import nobody
from support.trials import waiting
from support.wait import wait_until

WAIT_S = 60.0
SLEEP = "import signal; print(flush=True); signal.pause()"


@pytest.fixture
def root(bpffs: Path) -> Iterator[Directory]:
    """A pin root beside whose trials nobody waits at the end."""
    with pin_roots.open_to_change(bpffs) as directory:
        yield directory

        assert waiting(bpffs) == []


def identity(root: Directory, name: str = "bpfpin-trial") -> int:
    """Make the memory file that a waiting process holds; it belongs to the current user."""
    there = root.status
    text = {"root": f"{there.st_dev}:{there.st_ino}", "parent": "eth0"}
    made = os.memfd_create(name)
    os.write(made, json.dumps({**text, "entry": "confirm~", "token": "abc"}).encode())
    return made


@contextlib.contextmanager
def process(*words: str, holds: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of root's that does nothing, with these words on its command line."""
    keeps = () if holds is None else (holds,)
    command = [sys.executable, "-c", SLEEP, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=keeps) as running:
        try:
            assert running.stdout is not None
            running.stdout.readline()
            yield running
        finally:
            running.kill()
            for descriptor in keeps:
                os.close(descriptor)


def test_a_process_is_found_by_what_it_holds_and_ended(root: Directory) -> None:
    place = TrialPlace(root.path, "eth0")
    with start_waiting(place, "abc", command_deadline_ms(600)) as started:
        found = list(waiting_processes(root))
        (one,) = (process for process in found if process.pid == started.pid)
        end_process(one)
        left = waiting(root.path)

    there = root.status
    assert one == Waiting(
        started.pid, f"{there.st_dev}:{there.st_ino}", "eth0", "confirm~", "abc", holds_link=False
    )
    assert left == []


def test_a_process_whose_caller_is_over_ends_by_itself_without_a_trial(root: Directory) -> None:
    with start_waiting(TrialPlace(root.path, "eth0"), "abc", command_deadline_ms(600)) as started:
        alive = waiting(root.path)
    wait_until(lambda: waiting(root.path) == [], timeout_s=WAIT_S)

    assert alive == [started.pid]


def test_a_process_of_another_pin_root_is_left_alone(root: Directory) -> None:
    (root.path / "inner").mkdir()
    with pin_roots.open_to_change(root.path / "inner") as inner:
        place = TrialPlace(inner.path, "eth0")
        with start_waiting(place, "abc", command_deadline_ms(600)) as started:
            seen = [one.pid for one in waiting_processes(root)]
            end_orphans(root)
            alive = waiting(inner.path)
            end_orphans(inner)

    assert (started.pid in seen, alive, waiting(inner.path)) == (False, [started.pid], [])


def test_the_same_held_by_a_process_of_root_is_found(root: Directory) -> None:
    """The control for the forgeries: what they lack is all that is missing."""
    with process(MODULE, holds=identity(root)) as running:
        found = [one.pid for one in waiting_processes(root)]
        end_orphans(root)

        assert (found, running.wait()) == ([running.pid], -9)


def test_a_memory_file_of_another_user_names_nobody(root: Directory) -> None:
    """A user can have a process of root's hold his file: by a set-user-ID program, a socket."""
    with nobody():
        theirs = identity(root)
    with process(MODULE, holds=theirs) as running:
        end_orphans(root)

        assert running.poll() is None


@pytest.mark.parametrize("name", ["", "bpfpin"])
def test_words_on_a_command_line_name_nobody(root: Directory, name: str) -> None:
    holds = identity(root, name) if name else None
    with process(MODULE, str(root.path), "eth0", "confirm~", "abc", "0", holds=holds) as running:
        end_orphans(root)

        assert running.poll() is None


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"root": 1}', b"[" * 3000])
def test_a_file_that_says_nothing_names_nobody(root: Directory, text: bytes) -> None:
    held = os.memfd_create("bpfpin-trial")
    os.write(held, text)
    with process(MODULE, holds=held) as running:
        end_orphans(root)

        assert running.poll() is None
