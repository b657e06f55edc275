"""Codecs of elements that are objects of the kernel: written as the object, read as its number.

| map | written | read |
|---|---|---|
| program array | `Program` | program id |
| array, hash of maps | `Map` | map id |
| device map (hash) | ifindex, device name, `{"ifindex":…, "program":…}` | ifindex, or such a dict |
| CPU map | queue size, or `{"qsize":…, "program":…}` | queue size, or such a dict |
| socket map, hash, reuseport array | socket | the socket's cookie, where values have 8 bytes |
| XDP socket map, cgroup array, perf event array | XDP socket, cgroup, event | the kernel refuses |
| stack traces | the kernel refuses | list of addresses, or of dicts with build ids |
| instruction array | index of an instruction, or `{"orig_off":…}` | dict with all three offsets |

The kernel takes some elements as a descriptor:

| map | owner |
|---|---|
| socket storage, socket map | a socket |
| task storage | the process id of a process, or an object with its pidfd |
| inode storage | an open file, or its path |
| cgroup storage (CGRP_STORAGE), cgroup array | the path of the cgroup, or an object open on it |

All but the task storage accept the number of an open descriptor, too, and all accept bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bpfpin.codecs.codec import Buffer, BytesCodec, Codec, MisfitError, ScalarCodec
from bpfpin.codecs.record import ArrayCodec, KeyRecord, Part, RecordCodec, StructCodec
from bpfpin.map_traits import KeyKind, ValueKind, traits_of
from bpfpin.objects.kernel.info import MapInfo
from bpfpin.objects.kernel.object import KernelObject, ObjectKind
from bpfpin.records import dataclass
from bpfpin.uapi import MapFlag

WORD = 4
CGROUP_ID_SIZE = 8
BUILD_ID_SIZE = 20


class HeldBytes(bytes):
    """Bytes with the numbers of descriptors, which stay open as long as the bytes exist."""

    _opened: int | None = None
    _parts: Sequence[bytes] = ()

    @classmethod
    def opened(cls, fd: int, size: int) -> HeldBytes:
        """Return the bytes of *fd*; deleting them closes it."""
        data = cls(fd.to_bytes(size, "little"))
        data._opened = fd
        return data

    @classmethod
    def joined(cls, parts: Sequence[bytes]) -> HeldBytes:
        """Return all *parts* back to back; they are kept with the result."""
        data = cls(b"".join(parts))
        data._parts = parts
        return data

    # The encoded bytes live as long as the call needs the descriptor, and nobody closes bytes.
    def __del__(self) -> None:
        if self._opened is not None:
            os.close(self._opened)


@dataclass(frozen=True)
class OwnerKind:
    """A kind of owner: what it is called, and how one that is not open is opened."""

    noun: str
    openers: tuple[tuple[type, Callable[[Any], int]], ...] = ()


def _open_path(path: str | os.PathLike[str]) -> int:
    # O_PATH is enough: bpf_fd_inode_storage_lookup_elem accepts such descriptors (fd_raw).
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise MisfitError(ValueError, f"{os.fspath(path)}: {error.strerror}") from None


def _open_process(process_id: int) -> int:
    # bpf_pid_task_storage_lookup_elem (kernel/bpf/bpf_task_storage.c) takes a pidfd.
    try:
        return os.pidfd_open(process_id)
    except OSError as error:
        raise MisfitError(ValueError, f"process {process_id}: {error.strerror}") from None


PATHS = ((str, _open_path), (os.PathLike, _open_path))

CGROUP = OwnerKind("a cgroup, its path or its descriptor", PATHS)

FILE = OwnerKind("an open file, its path or its descriptor", PATHS)

PROCESS = OwnerKind("the id of a process", ((int, _open_process),))

SOCKET = OwnerKind("a socket or its descriptor")

EVENT = OwnerKind("a perf event or its descriptor")

# The keys of local storages.
OWNERS: dict[KeyKind, OwnerKind] = {
    KeyKind.SOCKET: SOCKET,
    KeyKind.FILE: FILE,
    KeyKind.PROCESS: PROCESS,
    KeyKind.CGROUP: CGROUP,
}


class OwnerCodec(Codec):
    """An element that is a descriptor; one that `encode` opens is open as long as its bytes."""

    def __init__(self, owner: OwnerKind, *, size: int = WORD) -> None:
        self.size = size
        self._owner = owner

    def decode(self, data: Buffer, at: int = 0) -> int:
        """Return the number that the kernel reports instead, such as a socket's cookie."""
        return int.from_bytes(data[at : at + self.size], "little")

    def encode(self, value: Any) -> bytes:
        """Return the bytes of the descriptor; `ValueError` or `TypeError` if there is none."""
        opener = self._opener(value)
        if opener is None:
            return super().encode(value)
        try:
            return HeldBytes.opened(opener(value), self.size)
        except MisfitError as misfit:
            raise misfit.final() from None

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all descriptors."""
        return HeldBytes.joined([self.encode(value) for value in values])

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Encode an open descriptor: an object with `fileno`, its number or the bytes of it."""
        if isinstance(value, bytes) and len(value) == self.size:
            data[at : at + self.size] = value
            return
        is_open = hasattr(value, "fileno")
        fd = value.fileno() if is_open else value
        # An int that names an owner, such as a process id, is not taken for a descriptor.
        if not isinstance(fd, int) or (not is_open and self._opener(fd)):
            raise MisfitError(TypeError, f"{self._owner.noun} was expected, not {value!r}")
        if not 0 <= fd < 1 << 31:
            raise MisfitError(ValueError, f"{fd} is not a descriptor")
        data[at : at + self.size] = fd.to_bytes(self.size, "little")

    def _opener(self, value: Any) -> Callable[[Any], int] | None:
        kinds = self._owner.openers
        return next((opener for kind, opener in kinds if isinstance(value, kind)), None)


class ObjectCodec(Codec):
    """An element that is a map or a program: written as the object, read as its id."""

    size = WORD

    def __init__(self, kind: ObjectKind) -> None:
        self._kind = kind

    def decode(self, data: Buffer, at: int = 0) -> int:
        """Return the id."""
        return int.from_bytes(data[at : at + WORD], "little")

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Encode the object. Numbers are refused: an id could be mistaken for a descriptor."""
        # The kernel takes a descriptor and returns an id: two numbers that look alike.
        if not isinstance(value, KernelObject) or value.kind != self._kind:
            name = str(self._kind).capitalize()
            raise MisfitError(TypeError, f"a {name} was expected, not {value!r}")
        data[at : at + WORD] = value.fd.to_bytes(WORD, "little")


class DeviceCodec(ScalarCodec):
    """An ifindex, written as that or as the name of a device in this network namespace."""

    def __init__(self) -> None:
        super().__init__("I")

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Encode the index or the name."""
        if isinstance(value, str):
            value = _ifindex(value)
        super().encode_into(value, data, at)


def _ifindex(name: str) -> int:
    import socket  # noqa: PLC0415  (only for maps of sockets)

    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise MisfitError(ValueError, f"there is no device {name!r}") from None


class TargetProgramCodec(ObjectCodec):
    """The program that runs on packets at their target: its id, or None."""

    def __init__(self) -> None:
        super().__init__(ObjectKind.PROGRAM)

    def decode(self, data: Buffer, at: int = 0) -> int | None:  # type: ignore[override]  # 0 is no id
        """Return the id of the program; None if there is none."""
        return super().decode(data, at) or None

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Encode a `Program`, or None."""
        if value is not None:
            super().encode_into(value, data, at)


class TargetCodec(RecordCodec):
    """A target of packets, and the program that runs on them there.

    `struct bpf_devmap_val` and `struct bpf_cpumap_val` of linux/bpf.h; *member* names the number,
    which can be given alone.
    """

    def __init__(self, member: str, number: Codec) -> None:
        self._member = member
        parts = (Part(member, 0, number), Part("program", WORD, TargetProgramCodec()))
        super().__init__(parts, 2 * WORD)

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Encode the number alone, or a dict of it and of a `Program`."""
        if not isinstance(value, Mapping):
            value = {self._member: value}
        self._check_names(value)
        if self._member not in value:
            raise MisfitError(ValueError, "the member is missing").within(f".{self._member}")
        for part in self.parts:
            if part.name in value:
                self._write(part, value, data, at)


class InstructionCodec(StructCodec):
    """`struct bpf_insn_array_value`: written as an index of an instruction, read with all offsets.

    The kernel sets `xlated_off` and `jitted_off` when it loads the program, and refuses to be given
    them.
    """

    def __init__(self) -> None:
        names = enumerate(("orig_off", "xlated_off", "jitted_off"))
        super().__init__([Part(name, 4 * at, ScalarCodec("I")) for at, name in names], 16)

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Encode `orig_off` alone, or a dict in which the other members may be missing."""
        if not isinstance(value, Mapping):
            value = {"orig_off": value}
        super().encode_into({**dict.fromkeys(self.names[1:], 0), **value}, data, at)


def _addresses(info: MapInfo) -> Codec:
    """Return the codec of a stack: `__u64 ip[]`, or `struct bpf_stack_build_id[]`."""
    frame: Codec = ScalarCodec("Q")
    if info.map_flags & MapFlag.STACK_BUILD_ID:
        parts = (
            Part("status", 0, ScalarCodec("i")),
            Part("build_id", 4, BytesCodec(BUILD_ID_SIZE)),
            Part("offset", 24, ScalarCodec("Q")),
        )
        frame = StructCodec(parts, 32)
    return ArrayCodec(frame, info.value_size // frame.size)


def _device_target(info: MapInfo) -> Codec:
    # The kernel takes values of 4 bytes, and with a program of 8 (struct bpf_devmap_val).
    return DeviceCodec() if info.value_size == WORD else TargetCodec("ifindex", DeviceCodec())


def _cpu_target(info: MapInfo) -> Codec:
    return ScalarCodec("I") if info.value_size == WORD else TargetCodec("qsize", ScalarCodec("I"))


def _object(kind: ObjectKind) -> Callable[[MapInfo], Codec]:
    return lambda _info: ObjectCodec(kind)


def _owner(owner: OwnerKind) -> Callable[[MapInfo], Codec]:
    return lambda info: OwnerCodec(owner, size=info.value_size)


# They make the codec of a value by its kind, whatever the BTF of the map says.
HOLDERS: dict[ValueKind, Callable[[MapInfo], Codec]] = {
    ValueKind.PROGRAM: _object(ObjectKind.PROGRAM),
    ValueKind.MAP: _object(ObjectKind.MAP),
    ValueKind.DEVICE: _device_target,
    ValueKind.CPU: _cpu_target,
    ValueKind.SOCKET: _owner(SOCKET),
    ValueKind.CGROUP: _owner(CGROUP),
    ValueKind.PERF_EVENT: _owner(EVENT),
    ValueKind.STACK: _addresses,
    ValueKind.INSTRUCTION: lambda _info: InstructionCodec(),
}


def object_value_codec(info: MapInfo) -> Codec:
    """Return the codec of values that are objects of the kernel."""
    return HOLDERS[traits_of(info.type).value](info)


def object_key_codec(info: MapInfo) -> Codec:
    """Return the codec of keys that name objects: owners of a local storage, cgroups by id."""
    kind = traits_of(info.type).key
    if kind is KeyKind.CGROUP_ID:
        return attachment_key(info.key_size)
    return OwnerCodec(OWNERS[kind])


def attachment_key(size: int) -> Codec:
    """Return the codec of `struct bpf_cgroup_storage_key`, or of the id of a cgroup alone."""
    if size == CGROUP_ID_SIZE:
        return ScalarCodec("Q")
    parts = (Part("cgroup_inode_id", 0, ScalarCodec("Q")), Part("attach_type", 8, ScalarCodec("I")))
    return StructCodec(parts, size, factory=KeyRecord)
