"""Links of kinds that the product cannot attach by itself, made by the bare commands of bpf(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from bpfpin.insn import exit_, mov_imm
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall.attr import s32, u32, u64
from bpfpin.syscall.call import LIBC, bpf, checked
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.perf import EventAttr
from bpfpin.uapi import AttachType, Cmd, ProgramType

_PERF_EVENT_OPEN = {"x86_64": 298}.get(os.uname().machine, 241)
TYPE_SOFTWARE, CONTEXT_SWITCHES = 1, 3


class _RawTracepointAttr(ctypes.Structure):
    _fields_ = [*u64("name"), *u32("prog_fd", "reserved"), *u64("cookie")]


class _NetfilterLinkAttr(ctypes.Structure):
    _fields_ = [
        *u32("prog_fd", "target_fd", "attach_type", "flags"),
        *u32("family", "hook"),
        *s32("priority"),
        *u32("netfilter_flags"),
    ]


def program(
    kind: ProgramType, name: str, attach_type: AttachType | None = None, *, answer: int = 0
) -> Program:
    """Load a program of a *kind* that returns *answer*."""
    function = FunctionSpec(name, name, (mov_imm(0, answer), exit_()))
    spec = ProgramSpec(
        name, kind, name, (function,), license="GPL", expected_attach_type=attach_type
    )
    return Program.load(spec)


@contextlib.contextmanager
def raw_tracepoint(tracepoint: str) -> Iterator[Link]:
    """Attach a program called `raw` to a tracepoint."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    with program(ProgramType.RAW_TRACEPOINT, "raw") as raw:
        attribute = _RawTracepointAttr(name=ctypes.addressof(name), prog_fd=raw.fd)
        link = Link.from_fd(bpf(Cmd.RAW_TRACEPOINT_OPEN, attribute))
    with link:
        yield link


@contextlib.contextmanager
def event_link(kind: ProgramType, event: Descriptor) -> Iterator[Link]:
    """Attach a program called `on_event` to a perf event."""
    with event, program(kind, "on_event") as traced:
        link = Link.create(traced, event.fileno(), AttachType.PERF_EVENT)
    with link:
        yield link


def software_event() -> Descriptor:
    """Open the event of context switches on CPU 0."""
    return _event(
        EventAttr(type=TYPE_SOFTWARE, size=64, config=CONTEXT_SWITCHES, sample_period=1_000)
    )


def tracepoint_event(folder: Path) -> Descriptor:
    """Open the event of a tracepoint, *folder* below `events` of tracefs."""
    number = int((folder / "id").read_text())
    return _event(EventAttr(type=2, size=64, config=number, sample_period=1))


def entry_of(file: str) -> int:
    """Return where the first instruction of an executable is in its file."""
    data = Path(file).read_bytes()
    entry, headers = struct.unpack_from("<QQ", data, 24)
    size, count = struct.unpack_from("<HH", data, 54)
    for at in range(headers, headers + count * size, size):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 1 and address <= entry < address + length:  # PT_LOAD
            return int(entry - address + offset)
    raise AssertionError(f"{file} has no entry point")


def uprobe_event(file: str, offset: int) -> Descriptor:
    """Open the event of a uprobe in *file*."""
    kind = int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())
    name = ctypes.create_string_buffer(file.encode())
    return _event(
        EventAttr(
            type=kind,
            size=ctypes.sizeof(EventAttr),
            config1=ctypes.addressof(name),
            config2=offset,
        )
    )


def _event(attribute: ctypes.Structure | ctypes.Array[ctypes.c_char]) -> Descriptor:
    answer = LIBC.syscall(
        ctypes.c_long(_PERF_EVENT_OPEN), ctypes.byref(attribute), -1, 0, -1, ctypes.c_ulong(8)
    )
    return Descriptor(checked("perf_event_open", answer, target="an event"))


@contextlib.contextmanager
def netns_link() -> Iterator[Link]:
    """Attach a program called `choose` to socket lookups of this network namespace."""
    with (
        program(ProgramType.SK_LOOKUP, "choose", AttachType.SK_LOOKUP, answer=1) as choose,
        Descriptor(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as space,
    ):
        link = Link.create(choose, space.fileno(), AttachType.SK_LOOKUP)
    with link:
        yield link


@contextlib.contextmanager
def netfilter_link(priority: int) -> Iterator[Link]:
    """Attach a program called `accept` to incoming IPv4 packets of this network namespace."""
    with program(ProgramType.NETFILTER, "accept", AttachType.NETFILTER, answer=1) as accept:
        attribute = _NetfilterLinkAttr(
            prog_fd=accept.fd,
            attach_type=AttachType.NETFILTER,
            family=2,
            hook=1,
            priority=priority,
        )
        link = Link.from_fd(bpf(Cmd.LINK_CREATE, attribute))
    with link:
        yield link
