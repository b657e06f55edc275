"""Who is told to use a map."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.interface import ifindex
from bpfpin.host.users import MapUser, UserKind, processes_of, users_of
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, ProgramSpec, Reference, ReferenceKind
from bpfpin.uapi import AttachType, ProgramType, XdpAction
from support.maps import FLOWS
from support.nobody import let_everybody_enter, nobody

LOOPBACK = 1
HOLDER = """
import sys
from bpfpin import Map
with Map.from_pin(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Map]:
    """A pinned map."""
    with Map.create(FLOWS) as made:
        made.pin(bpffs / "flows")
        yield made


@pytest.fixture
def program(flows: Map) -> Iterator[Program]:
    """An XDP program that refers to the map."""
    instructions = (*load_imm64(1, 0), mov_imm(0, XdpAction.XDP_PASS), exit_())
    uses = Reference(0, ReferenceKind.MAP, "flows")
    function = FunctionSpec("counter", "xdp", instructions, (uses,))
    spec = ProgramSpec("counter", ProgramType.XDP, "xdp", (function,), license="GPL")
    with Program.load(spec, maps={"flows": flows}) as loaded:
        yield loaded


@pytest.fixture
def holder(flows: Map, bpffs: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the map open."""
    command = [sys.executable, "-c", HOLDER, str(bpffs / "flows")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate()


def test_a_program_a_pin_and_a_process_are_told_in_a_line_each(
    flows: Map, program: Program, holder: subprocess.Popen[str], bpffs: Path
) -> None:
    with Link.create(program, LOOPBACK, AttachType.XDP):
        told = [str(user) for user in users_of(flows.id, pin_root=bpffs)]

    assert told[:2] == [f"program {program.id} counter at xdp of lo", f"pin {bpffs / 'flows'}"]
    assert re.fullmatch(rf"process {holder.pid} \(python\S*\)", told[2])
    assert len(told) == 3


def test_a_program_that_is_not_attached_has_no_place(flows: Map, program: Program) -> None:
    (user,) = [user for user in users_of(flows.id) if user.kind is UserKind.PROGRAM]

    assert user == MapUser(UserKind.PROGRAM, program.id, "counter")
    assert str(user) == f"program {program.id} counter"


def test_a_program_on_two_devices_is_one_user_with_two_places(flows: Map, program: Program) -> None:
    add = ["ip", "link", "add", "users0", "type", "veth", "peer", "name", "users1"]
    subprocess.run(add, check=True)
    with (
        Link.create(program, LOOPBACK, AttachType.XDP),
        Link.create(program, ifindex("users0"), AttachType.XDP),
    ):
        (user,) = [user for user in users_of(flows.id) if user.kind is UserKind.PROGRAM]
    subprocess.run(["ip", "link", "del", "users0"], check=True)

    assert user.place == "xdp of lo and xdp of users0"


def test_a_map_of_nobody_has_no_users() -> None:
    with Map.create(FLOWS) as lonely:
        assert users_of(lonely.id) == ()


def test_a_process_that_may_not_be_read_and_other_descriptors_are_left_out(tmp_path: Path) -> None:
    """A process table of our own: 7 holds map 5, 8 another map, 9 a file, 10 nothing to read."""
    for pid, (target, map_id) in {
        7: ("anon_inode:bpf-map", 5),
        8: ("anon_inode:bpf-map", 6),
        9: ("/dev/null", 5),
        os.getpid(): ("anon_inode:bpf-map", 5),
    }.items():
        process = tmp_path / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "fdinfo").mkdir()
        (process / "fd/3").symlink_to(target)
        (process / "fdinfo/3").write_text(f"pos:\t0\nmap_type:\t1\nmap_id:\t{map_id}\n")
    (tmp_path / "10").mkdir()
    (tmp_path / "self").symlink_to("7")
    (tmp_path / "7/comm").write_text("reader\n")

    assert [str(user) for user in processes_of(5, proc=tmp_path)] == ["process 7 (reader)"]


@pytest.mark.usefixtures("program")
def test_an_ordinary_user_is_told_what_he_may_see(flows: Map, bpffs: Path) -> None:
    """No program and no process of others; the pin only if he may open it."""
    let_everybody_enter(bpffs)
    told = []
    for mode in (0o600, 0o644):
        (bpffs / "flows").chmod(mode)
        with nobody():
            told.append([str(user) for user in users_of(flows.id, pin_root=bpffs)])

    assert told == [[], [f"pin {bpffs / 'flows'}"]]
