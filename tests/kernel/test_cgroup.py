"""Programs of cgroups: they run for what the processes in them do."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.cgroup import attach_cgroup
from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.attach.query import cgroup_programs
from bpfpin.errors import (
    AttachError,
    CgroupNotFoundError,
    HookBusyError,
    PermissionDeniedError,
    ProgramChangedError,
    WrongHookError,
)
from bpfpin.hooks import TargetKind, hooks_at
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.elf.section import ROWS
from bpfpin.spec import Hook
from bpfpin.syscall import fs
from bpfpin.uapi import AttachType, LinkType, ProgramType
from support import isolation
from support.hooks import Counting, counting, idle_at, new_cgroup
from support.kernel_needs import need_hook
from support.nobody import nobody
from support.tools import need
from support.wait import wait_until

MOST_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS of linux/bpf-cgroup-defs.h
EGRESS, CONNECT = Hook.CGROUP_INET_EGRESS, Hook.CGROUP_INET4_CONNECT
# What a process does after it has moved itself into a cgroup.
ACTIONS = {
    EGRESS: "s.sendto(b'x', ('127.0.0.1', 9))",
    CONNECT: "s.connect(('127.0.0.1', 9))",
}
SCRIPT = """
import os, socket, sys
if sys.argv[1]:
    with open(sys.argv[1] + "/cgroup.procs", "w") as procs: procs.write(str(os.getpid()))
for _ in range(int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: {action}
"""


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """A cgroup of the test's own."""
    with new_cgroup(tmp_path / "cgroup2") as made:
        yield made


@pytest.fixture
def programs() -> Iterator[Counting]:
    """The programs that count."""
    with counting() as made:
        yield made


def packets() -> Program:
    """Load a program that lets every packet out."""
    return idle_at(EGRESS, ProgramType.CGROUP_SKB)


def do(hook: Hook, times: int, *, cgroup: Path | None) -> None:
    """Do what *hook* sees, in a process of *cgroup*, or of none of ours."""
    script = SCRIPT.format(action=ACTIONS[hook])
    words = [sys.executable, "-c", script, str(cgroup or ""), str(times)]
    subprocess.run(words, check=True)


def show_mounts(monkeypatch: pytest.MonkeyPatch, *folders: Path, v1: Path | None = None) -> None:
    """Let only these mounts be seen."""
    lines = [f"36 35 0:28 / {folder} rw - cgroup2 none rw\n" for folder in folders]
    lines += [f"37 35 0:29 / {v1} rw - cgroup none rw\n"] if v1 else []
    table = Path("/run/mountinfo")  # a tmpfs of the tests'
    table.write_text("".join(lines))
    monkeypatch.setattr(fs, "MOUNTINFO", table)


def test_an_egress_program_sees_the_packets_of_its_processes_only(
    cgroup: Path, programs: Counting
) -> None:
    with attach_cgroup(programs.egress, cgroup, EGRESS) as link:
        do(EGRESS, 20, cgroup=cgroup)
        do(EGRESS, 7, cgroup=None)

        assert programs.counted(programs.egress) == 20
        assert (link.info.type, link.info.attach_type) == (
            LinkType.CGROUP,
            AttachType.CGROUP_INET_EGRESS,
        )


def test_a_connect_program_sees_every_connection(cgroup: Path, programs: Counting) -> None:
    with attach_cgroup(programs.connect, cgroup, CONNECT):
        do(CONNECT, 5, cgroup=cgroup)

    assert programs.counted(programs.connect) == 5


def test_a_program_sees_the_cgroups_below(cgroup: Path, programs: Counting) -> None:
    child = cgroup / "child"
    child.mkdir()
    with attach_cgroup(programs.egress, cgroup, EGRESS):
        do(EGRESS, 3, cgroup=child)
    child.rmdir()

    assert programs.counted(programs.egress) == 3


# A program of lsm_cgroup names an LSM hook besides (tests/guests/test_kernel_functions.py).
PLAIN_HOOKS = [hook for hook in hooks_at(TargetKind.CGROUP) if hook is not Hook.LSM_CGROUP]


@pytest.mark.parametrize("hook", PLAIN_HOOKS)
def test_every_hook_takes_its_program_and_an_update(cgroup: Path, hook: Hook) -> None:
    need_hook(hook)
    (kind,) = hook.traits.program_types
    with (
        idle_at(hook, kind) as old,
        idle_at(hook, kind) as new,
        attach_cgroup(old, cgroup, hook) as link,
    ):
        link.update(new, expected_old=old)
        with pytest.raises(ProgramChangedError):
            link.update(old, expected_old=old)

        assert (link.info.attach_type, link.program_id()) == (hook.attach_type, new.id)


def test_a_full_hook_is_told_as_that(cgroup: Path) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(MOST_PROGRAMS):
            program = held.enter_context(idle_at(EGRESS, ProgramType.CGROUP_SKB))
            held.enter_context(attach_cgroup(program, cgroup, EGRESS))
        one_more = held.enter_context(idle_at(EGRESS, ProgramType.CGROUP_SKB))
        with pytest.raises(HookBusyError, match="no room for one more program"):
            attach_cgroup(one_more, cgroup, EGRESS)


def test_the_hooks_are_those_of_the_section_names() -> None:
    words = ("cgroup", "sockops", "lsm_cgroup")
    kinds = [row.kind for name, row in ROWS.items() if name.startswith(words)]
    expected = {kind.attach_type: kind.type for kind in kinds if kind.attach_type is not None}

    rows = {hook.attach_type: hook.traits for hook in hooks_at(TargetKind.CGROUP)}

    assert {kind: row.program_types for kind, row in rows.items()} == {
        kind: (program_type,) for kind, program_type in expected.items()
    }


def test_a_relative_path_is_below_the_mount(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_mounts(monkeypatch, cgroup.parent)
    with packets() as program, attach_cgroup(program, cgroup.name, EGRESS) as link:
        assert link.info.cgroup_id == cgroup.stat().st_ino


def test_the_mount_is_found_past_what_only_looks_like_one(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_mounts(monkeypatch, Path("/nowhere"), Path("/proc"), cgroup.parent)

    assert cgroup2_mount() == cgroup.parent


def test_without_a_mount_the_line_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    show_mounts(monkeypatch)
    with (
        packets() as program,
        pytest.raises(CgroupNotFoundError, match="no cgroup2 is mounted") as refused,
    ):
        attach_cgroup(program, "app", EGRESS)

    assert refused.value.hint.startswith("mount one: mount -t cgroup2")


def test_what_is_no_cgroup_is_told(cgroup: Path, tmp_path: Path) -> None:
    with packets() as program:
        with pytest.raises(CgroupNotFoundError, match=f"{tmp_path} is not a cgroup"):
            attach_cgroup(program, tmp_path, EGRESS)
        with pytest.raises(CgroupNotFoundError, match=r"there is no cgroup .*/nosuch"):
            attach_cgroup(program, cgroup / "nosuch", EGRESS)
        with pytest.raises(CgroupNotFoundError, match=r"there is no cgroup .*/cgroup\.procs"):
            attach_cgroup(program, cgroup / "cgroup.procs", EGRESS)


def test_a_path_as_proc_shows_it_is_answered_with_the_whole_one(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_mounts(monkeypatch, cgroup.parent)
    with packets() as program, pytest.raises(CgroupNotFoundError) as refused:
        attach_cgroup(program, f"/{cgroup.name}", EGRESS)

    assert refused.value.hint == f"did you mean {cgroup}?"


def test_a_folder_of_version_1_is_answered_with_that_of_version_2(
    cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "v1"
    top.mkdir()
    name = f"name={cgroup.name}"
    subprocess.run(["mount", "-t", "cgroup", "-o", f"none,{name}", "none", top], check=True)
    try:
        (top / cgroup.name).mkdir()
        show_mounts(monkeypatch, cgroup.parent, v1=top)
        with (
            packets() as program,
            pytest.raises(CgroupNotFoundError, match="is a cgroup of version 1") as refused,
        ):
            attach_cgroup(program, top / cgroup.name, EGRESS)
        (top / cgroup.name).rmdir()
    finally:
        isolation.umount(top)

    assert refused.value.hint.startswith(f"type {cgroup};")


def test_a_program_loaded_for_another_hook_is_refused(cgroup: Path) -> None:
    with idle_at(CONNECT, ProgramType.CGROUP_SOCK_ADDR) as program:
        with pytest.raises(WrongHookError, match="was loaded for another hook than cgroup-inet6-c"):
            attach_cgroup(program, cgroup, Hook.CGROUP_INET6_CONNECT)
        with pytest.raises(WrongHookError, match="and cgroup-inet-egress runs cgroup_skb"):
            attach_cgroup(program, cgroup, EGRESS)
        with pytest.raises(WrongHookError, match="a cgroup has no hook xdp"):
            attach_cgroup(program, cgroup, Hook.XDP)


def test_the_same_program_is_attached_once(cgroup: Path) -> None:
    """The kernel would run it twice for each packet."""
    with packets() as program, attach_cgroup(program, cgroup, EGRESS):
        with pytest.raises(HookBusyError, match="runs this program already"):
            attach_cgroup(program, cgroup, EGRESS)

        assert len(cgroup_programs(cgroup, AttachType.CGROUP_INET_EGRESS)) == 1


@pytest.mark.parametrize("place", ["", "child"])
def test_a_program_that_allows_no_other_is_told(cgroup: Path, bpffs: Path, place: str) -> None:
    """Attached as `bpftool cgroup attach` does it, without `multi`."""
    need("bpftool")
    (cgroup / "child").mkdir()
    with packets() as theirs, packets() as ours:
        words = [str(cgroup), "egress", "id", str(theirs.id)]
        subprocess.run(["bpftool", "cgroup", "attach", *words], check=True)
        with pytest.raises(HookBusyError, match="allows no other beside it"):
            attach_cgroup(ours, cgroup / place, EGRESS)
        subprocess.run(["bpftool", "cgroup", "detach", *words], check=True)
    (cgroup / "child").rmdir()


def test_a_link_of_a_removed_cgroup_is_defunct(cgroup: Path) -> None:
    """The kernel lets go of the link some time after the folder went."""
    child = cgroup / "child"
    child.mkdir()
    with packets() as old, packets() as new, attach_cgroup(old, child, EGRESS) as link:
        child.rmdir()
        wait_until(lambda: link.info.cgroup_id == 0)

        assert link.program_id() == old.id
        with pytest.raises(AttachError, match="the device or cgroup of the link is gone"):
            link.update(new, expected_old=old)
        link.detach()


def test_closing_the_link_detaches_and_a_pin_holds_it(cgroup: Path, bpffs: Path) -> None:
    with packets() as program:
        with attach_cgroup(program, cgroup, EGRESS) as link:
            link.pin(bpffs / "link")
        (held,) = cgroup_programs(cgroup, AttachType.CGROUP_INET_EGRESS)

        assert held.program_id == program.id
        (bpffs / "link").unlink()
        wait_until(lambda: cgroup_programs(cgroup, AttachType.CGROUP_INET_EGRESS) == ())


def test_a_folder_that_may_not_be_opened_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with packets() as program, nobody(), pytest.raises(PermissionDeniedError):
        attach_cgroup(program, closed / "cgroup", EGRESS)
