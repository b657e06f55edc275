"""Names that change in a directory wake who listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.errors import SyscallError
from bpfpin.syscall.inotify import Inotify


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Inotify]:
    (tmp_path / "old").touch()
    with Inotify() as inotify:
        inotify.add(tmp_path)
        yield inotify


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "new").mkdir(),
        lambda path: (path / "old").unlink(),
        lambda path: (path / "old").rename(path / "new"),
        lambda path: (path / "old").chmod(0o600),
    ],
    ids=["made", "removed", "renamed", "mode"],
)
def test_a_name_that_changes_wakes(
    listening: Inotify, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    change(tmp_path)

    assert listening.wait(10.0)
    assert not listening.wait(0.0)


def test_without_a_change_the_time_is_waited_out(listening: Inotify) -> None:
    began_s = time.monotonic()

    assert not listening.wait(0.02)
    assert time.monotonic() - began_s >= 0.02


def test_reading_a_file_wakes_nobody(listening: Inotify, tmp_path: Path) -> None:
    (tmp_path / "old").read_bytes()

    assert not listening.wait(0.0)


def test_a_directory_that_is_not_there_cannot_be_listened_to(
    listening: Inotify, tmp_path: Path
) -> None:
    with pytest.raises(SyscallError, match="inotify_add_watch"):
        listening.add(tmp_path / "nothing")
