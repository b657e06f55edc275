"""Every type of map whose keys or values stand for things of the kernel, with the real things."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.cgroup import attach_cgroup
from bpfpin.errors import (
    KeyExistsError,
    KeyNotFoundError,
    SyscallError,
)
from bpfpin.insn import call_helper, exit_, mov_imm
from bpfpin.objects.maps.map import Map
from bpfpin.spec import Hook, MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, MapFlag, MapType, ProgramType, UpdateFlag
from support.hooks import idle, new_cgroup
from support.kernel_needs import need_map_type
from support.map_types import RECORD, each, of, spec, unreadable, with_map
from support.maps import DATAREC, FLOWS, U32

CPUS = possible_cpus()
LOOPBACK = 1  # the ifindex of lo in every network namespace
SO_COOKIE = 57
AF_XDP = 44
SOL_XDP = 283
XDP_RX_RING = 2
GET_LOCAL_STORAGE = 81
OTHER = {"rx_packets": 4, "rx_bytes": 240}


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    with new_cgroup(tmp_path / "cgroup") as made:
        yield made


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def cookie_of(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def storage(kind: MapType, **more: Any) -> MapSpec:
    """Describe a local storage of a record for each owner; such maps must have types."""
    flags = MapFlag.NO_PREALLOC
    return spec(kind, 4, 16, max_entries=0, map_flags=flags, key=U32, value=DATAREC, **more)


@of(MapType.PROG_ARRAY)
def test_a_program_array_holds_programs() -> None:
    with Map.create(spec(MapType.PROG_ARRAY, 4, 4)) as table, idle() as first, idle() as second:
        table[1] = first
        table[3] = second
        entries = table.to_dict()
        del table[1]
        with pytest.raises(TypeError, match="a Program was expected, not"):
            table[0] = table

        assert entries == {1: first.id, 3: second.id}
        assert 1 not in table
        assert table[3] == second.id


@each(MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
def test_a_map_of_maps_holds_maps(kind: MapType) -> None:
    with (
        Map.create(FLOWS) as one,
        Map.create(FLOWS) as other,
        Map.create(spec(kind, 4, 4, inner=FLOWS, key=U32, value=U32)) as outer,
    ):
        outer[0] = one
        outer[1] = other
        one[7] = 70
        with outer.map_at(0) as inner:
            found = inner.to_dict()
        entries = outer.to_dict()
        with pytest.raises(TypeError, match="holds no maps"):
            one.map_at(7)

        assert found == {7: 70}
        assert entries == {0: one.id, 1: other.id}


@each(MapType.DEVMAP, MapType.DEVMAP_HASH)
def test_a_device_map_takes_devices_by_name(kind: MapType) -> None:
    with (
        Map.create(spec(kind, 4, 8)) as targets,
        idle("end", ProgramType.XDP, AttachType.XDP_DEVMAP) as program,
    ):
        targets[0] = "lo"
        targets[1] = LOOPBACK
        targets[2] = {"ifindex": "lo", "program": program}
        entries = targets.to_dict()
        targets[3] = targets[0]
        del targets[0]
        with pytest.raises(ValueError, match=r"^ifindex: there is no device 'nosuch'"):
            targets[0] = "nosuch"
        with pytest.raises(TypeError, match=r"^program: a Program was expected, not 5"):
            targets[0] = {"ifindex": 1, "program": 5}

        bare = {"ifindex": LOOPBACK, "program": None}
        assert entries == {0: bare, 1: bare, 2: {"ifindex": LOOPBACK, "program": program.id}}
        assert targets.to_dict() == {1: bare, 2: entries[2], 3: bare}


def test_a_device_map_of_the_first_kernels_holds_numbers() -> None:
    with Map.create(spec(MapType.DEVMAP, 4, 4)) as targets:
        targets[0] = "lo"
        with pytest.raises(TypeError, match="an integer was expected"):
            targets[1] = {"ifindex": 1, "program": object()}

        assert targets.to_dict() == {0: LOOPBACK}


@of(MapType.CPUMAP)
def test_a_cpu_map_takes_queue_sizes_and_programs() -> None:
    with (
        Map.create(spec(MapType.CPUMAP, 4, 8)) as queues,
        idle("there", ProgramType.XDP, AttachType.XDP_CPUMAP) as program,
    ):
        queues[0] = {"qsize": 192, "program": program}
        entries = queues.to_dict()
        queues[0] = 64
        changed = queues[0]
        del queues[0]

        assert entries == {0: {"qsize": 192, "program": program.id}}
        assert changed == {"qsize": 64, "program": None}
        assert queues.to_dict() == {}


@each(MapType.SOCKMAP, MapType.SOCKHASH)
def test_a_socket_map_takes_sockets_and_tells_their_cookies(
    kind: MapType, listener: socket.socket
) -> None:
    with Map.create(spec(kind, 4, 8, key=U32)) as sockets:
        sockets[2] = listener
        entries = sockets.to_dict()
        del sockets[2]
        with pytest.raises(KeyNotFoundError):
            del sockets[2]
        with pytest.raises(KeyNotFoundError):
            sockets[2]

        assert entries == {2: cookie_of(listener)}
        with pytest.raises(TypeError, match="a socket or its descriptor was expected, not 'x'"):
            sockets[0] = "x"


def test_a_socket_map_with_values_of_four_bytes_tells_no_cookies(listener: socket.socket) -> None:
    with Map.create(spec(MapType.SOCKMAP, 4, 4)) as sockets:
        sockets[0] = listener.fileno()
        with pytest.raises(TypeError, match=r"is a sockmap: .* only if values have 8 bytes"):
            sockets[0]
        del sockets[0]


@of(MapType.REUSEPORT_SOCKARRAY)
def test_a_reuseport_array_takes_the_sockets_of_a_group() -> None:
    with (
        Map.create(spec(MapType.REUSEPORT_SOCKARRAY, 4, 8)) as group,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
    ):
        member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        member.bind(("127.0.0.1", 0))
        group[1] = member
        entries = group.to_dict()
        del group[1]

        assert entries == {1: cookie_of(member)}
        assert group.to_dict() == {}


def test_ids_and_targets_are_numbers_in_arrays() -> None:
    """The index of a device and the id of the program that runs there, 0 for none."""
    with (
        Map.create(spec(MapType.DEVMAP, 4, 8)) as targets,
        Map.create(spec(MapType.PROG_ARRAY, 4, 4)) as table,
        idle("end", ProgramType.XDP, AttachType.XDP_DEVMAP) as program,
        idle() as tail,
    ):
        targets.update({0: "lo", 1: {"ifindex": "lo", "program": program}})
        table[3] = tail
        _, records = targets.to_numpy()
        keys, ids = table.to_numpy()

        assert records["ifindex"].tolist() == [LOOPBACK, LOOPBACK]
        assert records["program"].tolist() == [0, program.id]
        assert (keys.tolist(), ids.tolist()) == ([3], [tail.id])


@pytest.mark.parametrize(
    ("kind", "value_size", "said"),
    [
        (MapType.PROG_ARRAY, 4, "programs of one type"),
        (MapType.ARRAY_OF_MAPS, 4, "maps of the type, sizes and flags of its template"),
        (MapType.DEVMAP, 8, "XDP programs that are loaded for it (section xdp/devmap)"),
        (MapType.CPUMAP, 8, "XDP programs that are loaded for it (section xdp/cpumap)"),
        (MapType.SOCKMAP, 8, "TCP sockets that listen or are connected"),
        (MapType.REUSEPORT_SOCKARRAY, 8, "sockets with SO_REUSEPORT"),
    ],
    ids=lambda word: word.name.lower() if isinstance(word, MapType) else "",
)
def test_a_thing_that_does_not_fit_is_refused_with_what_would(
    kind: MapType, value_size: int, said: str
) -> None:
    inner = FLOWS if kind == MapType.ARRAY_OF_MAPS else None
    with (
        Map.create(spec(kind, 4, value_size, inner=inner)) as held,
        Map.create(spec(MapType.ARRAY, 4, 4)) as other,
        socket.socket() as idle_socket,
        idle("first", ProgramType.XDP) as first,
        idle("second", ProgramType.SCHED_CLS) as second,
    ):
        if kind == MapType.PROG_ARRAY:
            held[1] = first
        wrong = {
            MapType.PROG_ARRAY: second,
            MapType.ARRAY_OF_MAPS: other,
            MapType.DEVMAP: {"ifindex": LOOPBACK, "program": first},
            MapType.CPUMAP: {"qsize": 64, "program": first},
        }
        with pytest.raises(SyscallError) as caught:
            held[0] = wrong.get(kind, idle_socket)

        assert said in caught.value.hint


@of(MapType.XSKMAP)
def test_an_xsk_map_takes_xdp_sockets_and_cannot_be_read() -> None:
    with (
        Map.create(spec(MapType.XSKMAP, 4, 4)) as queues,
        socket.socket(AF_XDP, socket.SOCK_RAW, 0) as receiver,
        socket.socket(AF_XDP, socket.SOCK_RAW, 0) as other,
    ):
        for each_socket in (receiver, other):
            each_socket.setsockopt(SOL_XDP, XDP_RX_RING, 64)
        queues[0] = receiver
        with pytest.raises(KeyExistsError):
            queues.update(0, other, flag=UpdateFlag.NOEXIST)
        with pytest.raises(TypeError, match=unreadable(queues)):
            queues[0]
        with pytest.raises(TypeError, match=unreadable(queues)):
            queues.to_dict()
        del queues[0]
        queues.update(0, other, flag=UpdateFlag.NOEXIST)


@of(MapType.CGROUP_ARRAY)
def test_a_cgroup_array_takes_cgroups_by_path(cgroup: Path) -> None:
    with Map.create(spec(MapType.CGROUP_ARRAY, 4, 4)) as held:
        held[0] = cgroup
        with pytest.raises(TypeError, match=unreadable(held)):
            held[0]
        with pytest.raises(ValueError, match="nosuch: No such file or directory"):
            held[1] = cgroup / "nosuch"
        del held[0]
        with pytest.raises(KeyNotFoundError):
            del held[0]


@each(MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE)
def test_the_storage_of_a_cgroup_program_is_there_while_it_is_attached(
    kind: MapType, cgroup: Path
) -> None:
    with Map.create(spec(kind, 16, 16, max_entries=0)) as held:
        reading = Map.from_id(held.id, value_type=DATAREC)
        code = (mov_imm(2, 0), call_helper(GET_LOCAL_STORAGE), mov_imm(0, 1), exit_())
        with (
            reading as records,
            with_map(ProgramType.CGROUP_SKB, held, *code) as program,
            attach_cgroup(program, cgroup, Hook.CGROUP_INET_INGRESS),
        ):
            key = {"cgroup_inode_id": cgroup.stat().st_ino, "attach_type": 0}
            written = [RECORD] * CPUS if records.is_per_cpu else RECORD
            keys = list(records)
            records[key] = written
            with pytest.raises(TypeError, match="entries are removed with the link"):
                del records[key]

            assert keys == [key]
            assert records[key] == written
            assert records.to_dict() == {keys[0]: written}


@of(MapType.SK_STORAGE)
def test_a_socket_storage_takes_sockets_as_keys(listener: socket.socket) -> None:
    with Map.create(storage(MapType.SK_STORAGE)) as held:
        check_storage(held, listener)


@of(MapType.CGRP_STORAGE)
def test_a_cgroup_storage_takes_paths_as_keys(cgroup: Path) -> None:
    need_map_type(MapType.CGRP_STORAGE)
    with Map.create(storage(MapType.CGRP_STORAGE)) as held:
        check_storage(held, cgroup)
        check_storage(held, str(cgroup))


@of(MapType.INODE_STORAGE)
def test_an_inode_storage_takes_files_and_paths_as_keys(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Map.create(storage(MapType.INODE_STORAGE)) as held, path.open("w") as opened:
        check_storage(held, opened)
        check_storage(held, path)
        held[opened] = RECORD

        assert held[path] == RECORD


@of(MapType.TASK_STORAGE)
def test_a_task_storage_takes_process_ids_as_keys() -> None:
    with Map.create(storage(MapType.TASK_STORAGE)) as held:
        check_storage(held, os.getpid())
        with pytest.raises(ValueError, match="process 4194304: "):
            held[1 << 22]


def check_storage(held: Map, owner: Any) -> None:
    """Write, change, read and remove what belongs to *owner*, one by one and in a batch."""
    assert owner not in held
    held.update(owner, RECORD, flag=UpdateFlag.NOEXIST)
    read = held[owner]
    held.update_batch([(owner, OTHER)])
    changed = held.get(owner)
    with pytest.raises(TypeError, match="cannot walk it, only look up one owner"):
        list(held)
    with pytest.raises(TypeError, match=r"was expected, not 1\.5"):
        held[1.5]
    held.delete_batch([owner])

    assert (read, changed) == (RECORD, OTHER)
    with pytest.raises(KeyNotFoundError):
        del held[owner]


@of(MapType.PERF_EVENT_ARRAY)
def test_a_perf_event_array_takes_events_and_cannot_be_read() -> None:
    """The events of its programs are read in the tests of the perf buffer."""
    with Map.create(spec(MapType.PERF_EVENT_ARRAY, 4, 4)) as held, perf_event() as event:
        held[0] = event
        with pytest.raises(TypeError, match=unreadable(held)):
            held[0]
        del held[0]
        with pytest.raises(KeyNotFoundError):
            del held[0]


@contextlib.contextmanager
def perf_event() -> Iterator[Descriptor]:
    """Open the software event that takes what programs output, on the first CPU."""
    number = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
    size, is_software, bpf_output = 64, 1, 10
    attribute = ctypes.create_string_buffer(
        struct.pack("<IIQ", is_software, size, bpf_output), size
    )
    fd = ctypes.CDLL(None).syscall(number, attribute, -1, 0, -1, 0)
    with Descriptor(fd) as event:
        yield event
