"""Elements that stand for things of the kernel, without the kernel's maps."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from bpfpin.codecs.codec import ScalarCodec
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.objects.maps.kernel_values import (
    CGROUP,
    FILE,
    PROCESS,
    SOCKET,
    DeviceCodec,
    ObjectCodec,
    OwnerCodec,
    TargetCodec,
    attachment_key,
)

LOOPBACK = socket.if_nametoindex("lo")


def number(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


def test_a_path_is_open_for_as_long_as_its_bytes_are_there(tmp_path: Path) -> None:
    encoded = OwnerCodec(FILE).encode(tmp_path)
    fd = number(encoded)
    there = os.fstat(fd).st_ino
    del encoded

    assert there == tmp_path.stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_many_paths_are_open_for_as_long_as_the_whole(tmp_path: Path) -> None:
    whole = OwnerCodec(CGROUP).encode_many([tmp_path, str(tmp_path)])
    fds = struct.unpack("<2I", whole)

    assert {os.fstat(fd).st_ino for fd in fds} == {tmp_path.stat().st_ino}
    assert len(set(fds)) == 2


def test_a_process_is_named_by_its_id_and_what_is_open_by_itself() -> None:
    process = OwnerCodec(PROCESS).encode(os.getpid())
    pidfd = number(process)

    assert f"Pid:\t{os.getpid()}" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    with socket.socket() as opened:
        assert number(OwnerCodec(SOCKET).encode(opened)) == opened.fileno()
        assert number(OwnerCodec(SOCKET).encode(opened.fileno())) == opened.fileno()
        assert len(OwnerCodec(SOCKET, size=8).encode(opened)) == 8
    assert OwnerCodec(PROCESS).encode(b"\5\0\0\0") == b"\5\0\0\0"


@pytest.mark.parametrize(
    ("codec", "value", "kind", "said"),
    [
        (OwnerCodec(SOCKET), "eth0", TypeError, "a socket or its descriptor was expected"),
        (OwnerCodec(SOCKET), -1, ValueError, "-1 is not a descriptor"),
        (OwnerCodec(SOCKET), 1.5, TypeError, "a socket or its descriptor was expected"),
        (OwnerCodec(FILE), "/nosuch/file", ValueError, "/nosuch/file: No such file or directory"),
        (OwnerCodec(PROCESS), 1 << 22, ValueError, "process 4194304: "),
        (OwnerCodec(PROCESS), "init", TypeError, "the id of a process was expected"),
        (ObjectCodec(ObjectKind.MAP), 7, TypeError, "a Map was expected, not 7"),
        (DeviceCodec(), "nosuch", ValueError, "there is no device 'nosuch'"),
        (DeviceCodec(), 1 << 32, ValueError, "does not fit into 32 bits"),
        (TargetCodec("ifindex", DeviceCodec()), {"program": None}, ValueError, "ifindex: the mem"),
        (TargetCodec("ifindex", DeviceCodec()), {"ifindex": 1, "x": 1}, ValueError, "no member x"),
    ],
)
def test_what_does_not_fit_is_told(
    codec: OwnerCodec, value: object, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        codec.encode(value)


def test_a_target_is_a_number_or_a_number_and_a_program() -> None:
    devices, queues = TargetCodec("ifindex", DeviceCodec()), TargetCodec("qsize", ScalarCodec("I"))

    assert devices.encode("lo") == devices.encode({"ifindex": LOOPBACK, "program": None})
    assert devices.decode(struct.pack("<II", 3, 41)) == {"ifindex": 3, "program": 41}
    assert devices.decode(devices.encode("lo")) == {"ifindex": LOOPBACK, "program": None}
    assert queues.encode(64) == struct.pack("<II", 64, 0)
    assert DeviceCodec().encode_many(["lo", 7]) == struct.pack("<II", LOOPBACK, 7)


def test_the_key_of_a_cgroup_storage_can_be_hashed() -> None:
    key = {"cgroup_inode_id": 99, "attach_type": 1}
    codec = attachment_key(16)

    assert codec.encode(key) == struct.pack("<QII", 99, 1, 0)
    assert {codec.decode(codec.encode(key)): 1} == {codec.decode(codec.encode(key)): 1}
    assert attachment_key(8).decode(struct.pack("<Q", 99)) == 99
