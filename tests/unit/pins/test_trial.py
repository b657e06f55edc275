"""The record of a change on trial, and what of it is believed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import AttachPoint, Manifest
from bpfpin.pins.trial import (
    BEGUN,
    CONFIRM,
    MAP,
    RECORD,
    EntryChange,
    Trial,
    begin_trial,
    copy_generation,
    end_record,
    end_trial,
    make_trial,
    now_ms,
    read_trial,
)

CHANGE = EntryChange(bytes(4), b"\x02\0\0\0", b"\x01\0\0\0")


def trial(**changes: Any) -> Trial:
    """Return a trial that began just now."""
    begun = Trial("abc", 30, now_ms() + 30_000, 4711, 99, device="eth0", what="XDP_DROP")
    return dataclasses.replace(begun, **changes)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Directory]:
    """A directory of ours; none of this needs a bpffs."""
    with Directory.open(tmp_path) as directory:
        yield directory


def write(parent: Directory, text: str) -> None:
    """Put *text* where the record is."""
    with make_trial(parent) as room:
        room.write_text(RECORD, text)


@pytest.mark.parametrize(
    "written",
    [
        trial(),
        trial(change=CHANGE),
        trial(change=EntryChange(bytes(4), None, b"\x01\0\0\0")),
        trial(links={"xdp": 17, "tcx-ingress~one": 18}, netns_inode=4026531840),
    ],
)
def test_a_trial_is_read_as_it_was_written(parent: Directory, written: Trial) -> None:
    write(parent, written.to_text())

    assert read_trial(parent) == written


def test_where_nothing_is_there_nothing_is_on_trial(parent: Directory) -> None:
    assert read_trial(parent) is None


def test_a_room_without_a_record_is_no_trial(parent: Directory) -> None:
    make_trial(parent).close()

    assert read_trial(parent) is None


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        "{}",
        '{"schema":2}',
        json.dumps({"schema": 1, "token": "abc"}),
        "[" * 4000,
        trial(deadline_ms=now_ms() + 10**9).to_text(),  # more is left than there was
        trial(seconds=10**9, deadline_ms=now_ms() + 10**12).to_text(),
        trial().to_text().replace('"pid":4711', '"pid":-1'),
        trial().to_text().replace('"token":"abc"', '"token":7'),
        trial(change=CHANGE).to_text().replace("02000000", "zz"),
        trial(change=CHANGE).to_text().replace('"00000000",', ""),
        trial(links={"xdp": 17}).to_text().replace("xdp", "../xdp"),
        trial(links={"xdp": 17}).to_text().replace("17", '"x"'),
    ],
)
def test_a_damaged_record_counts_for_nothing(parent: Directory, text: str) -> None:
    write(parent, text)

    assert read_trial(parent) is None


def test_a_trial_begins_with_the_time_that_there_is_to_confirm_it(parent: Directory) -> None:
    write(parent, trial(seconds=30, deadline_ms=now_ms() + 60_000).to_text())
    before = read_trial(parent)
    begin_trial(parent, 30)
    after = read_trial(parent)

    assert before is not None
    assert after is not None
    assert (before.is_begun, after.is_begun) == (False, True)
    assert 29 < after.left_s <= 30 < before.left_s


@pytest.mark.parametrize(
    "text",
    ["", "soon", str(now_ms() + 10**9), "[1]"],
    ids=["empty", "word", "future", "list"],  # the same in every process that collects the tests
)
def test_a_trial_whose_beginning_is_damaged_counts_for_nothing(
    parent: Directory, text: str
) -> None:
    write(parent, trial().to_text())
    if text:
        (parent.path / CONFIRM / BEGUN).symlink_to(text)
    else:
        (parent.path / CONFIRM / BEGUN).mkdir()

    assert read_trial(parent) is None


def test_a_record_that_ends_keeps_what_going_back_takes(parent: Directory) -> None:
    write(parent, trial().to_text())
    (parent.path / CONFIRM / MAP).touch()
    end_record(parent)
    end_record(parent)

    assert read_trial(parent) is None
    assert os.listdir(parent.path / CONFIRM) == [MAP]  # noqa: PTH208


def _symlink(path: Path) -> None:
    """Point to a whole trial somewhere else."""
    elsewhere = path.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _file(path: Path) -> None:
    """Put the record into a file, and not into a symlink."""
    text = os.readlink(path / RECORD)  # noqa: PTH115 - no path
    (path / RECORD).unlink()
    (path / RECORD).write_text(text)


@pytest.mark.parametrize(
    "forge", [_symlink, _file, lambda path: path.chmod(0o777)], ids=["symlink", "file", "open"]
)
def test_a_forged_record_counts_for_nothing(
    parent: Directory, forge: Callable[[Path], None]
) -> None:
    write(parent, trial().to_text())
    forge(parent.path / CONFIRM)

    assert read_trial(parent) is None


def test_the_time_that_is_left_ends_at_the_deadline() -> None:
    late = trial(deadline_ms=now_ms() - 1)

    assert (late.left_s, late.is_late) == (0.0, True)
    assert 29 < trial().left_s <= 30
    assert not trial().is_late


def test_a_trial_that_is_over_leaves_nothing(parent: Directory) -> None:
    write(parent, trial().to_text())
    end_trial(parent)
    end_trial(parent)

    assert parent.names() == []


def test_room_is_made_where_a_dead_command_left_some(parent: Directory) -> None:
    write(parent, trial().to_text())
    make_trial(parent).close()

    assert read_trial(parent) is None
    assert parent.names() == [CONFIRM]


def test_a_generation_is_copied_whole_without_what_passes(parent: Directory) -> None:
    text = Manifest("0.1.0", "x.o", "00" * 32, 1, 0, AttachPoint()).to_text()
    with parent.make("live") as live, parent.make("copy") as copy:
        live.write_text("manifest~", text)
        live.mark("commit~")
        make_trial(live).close()
        with live.make("programs~") as programs:
            (programs.path / "count").write_text("a pin")
        copy_generation(live, copy)
        (live.path / "programs~/count").unlink()

        assert copy.names() == ["manifest~", "programs~"]
        assert copy.read_text("manifest~") == text
        assert (copy.path / "programs~/count").read_text() == "a pin"
