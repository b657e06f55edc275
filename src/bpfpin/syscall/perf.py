"""Perf events (perf_event_open(2)): those that programs write to, and those that run programs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

from bpfpin.errors import NotSupportedError
from bpfpin.syscall.attr import u32, u64
from bpfpin.syscall.call import LIBC, checked
from bpfpin.syscall.fd import Descriptor

NUMBERS = {"x86_64": 298, "aarch64": 241}
_NUMBER = NUMBERS.get(os.uname().machine, 241)

# linux/perf_event.h
TYPE_SOFTWARE, TYPE_TRACEPOINT = 1, 2
COUNT_SW_BPF_OUTPUT = 10
SAMPLE_RAW = 1 << 10
FORMAT_LOST = 1 << 4
ATTR_WATERMARK = 1 << 14
FLAG_FD_CLOEXEC = 1 << 3
ENABLE = 0x2400
ATTR_FREQUENCY = 1 << 10
PMUS = Path("/sys/bus/event_source/devices")
ANY_PROCESS, ANY_CPU, NO_GROUP = -1, -1, -1

RECORD_LOST, RECORD_SAMPLE = 2, 9
# Offsets in the first page of the buffer, struct perf_event_mmap_page.
DATA_HEAD, DATA_TAIL = 1024, 1032

_COUNTS = struct.Struct("<QQ")  # read(2) of an event with FORMAT_LOST: value, lost


class EventAttr(ctypes.Structure):
    """`struct perf_event_attr` in its second version (PERF_ATTR_SIZE_VER1); the rest is zero."""

    _fields_ = [
        *u32("type", "size"),
        *u64("config", "sample_period", "sample_type", "read_format", "flags"),
        *u32("wakeup", "bp_type"),
        *u64("config1", "config2"),
    ]


def open_bpf_output(cpu: int, *, watermark_bytes: int = 0) -> Descriptor:
    """Open the event on *cpu* that `bpf_perf_event_output` writes to; needs CAP_PERFMON.

    Each record wakes the readers; with *watermark_bytes*, so many unread bytes do.
    """
    attribute = EventAttr(
        type=TYPE_SOFTWARE,
        size=ctypes.sizeof(EventAttr),
        config=COUNT_SW_BPF_OUTPUT,
        # `wakeup` is a union: with `sample_period` it counts events, with the watermark flag bytes.
        sample_period=1,
        sample_type=SAMPLE_RAW,
        read_format=FORMAT_LOST,
        flags=ATTR_WATERMARK if watermark_bytes else 0,
        wakeup=watermark_bytes or 1,
    )
    # A program can write only into the event of the CPU that it runs on
    # (__bpf_perf_event_output() of kernel/trace/bpf_trace.c), whatever process runs there.
    return _open(attribute, ANY_PROCESS, cpu, target=f"CPU {cpu}")


def open_tracepoint(number: int, *, target: str) -> Descriptor:
    """Open the tracepoint with that number (the file `id` of its folder in tracefs).

    On one CPU: programs are attached to the tracepoint itself, and run on all CPUs
    (perf_event_attach_bpf_prog() of kernel/trace/bpf_trace.c).
    """
    attribute = EventAttr(type=TYPE_TRACEPOINT, size=ctypes.sizeof(EventAttr), config=number)
    return _open(attribute, ANY_PROCESS, 0, target=target)


def open_uprobe(
    path: Path,
    offset: int,
    *,
    pid: int,
    at_return: bool,
    reference_counter: int,
    target: str,
) -> Descriptor:
    """Open the event of the code at *offset* in the file at *path*; *pid* 0 means all processes.

    The bits of `config` are those of the folder `format` of the PMU.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attribute = EventAttr(
        type=pmu_type("uprobe", feature="CONFIG_UPROBE_EVENTS"),
        size=ctypes.sizeof(EventAttr),
        config=int(at_return) | reference_counter << 32,
        config1=ctypes.addressof(name),
        config2=offset,
    )
    # A process is probed by its memory, so all of its threads are (uprobe_perf_filter() of
    # kernel/trace/trace_uprobe.c). Without one the CPU says nothing: all are probed.
    process, cpu = (pid, ANY_CPU) if pid else (ANY_PROCESS, 0)
    return _open(attribute, process, cpu, target=target)


def open_event(
    kind: int,
    config: int,
    *,
    freq: int = 0,
    period: int = 0,
    pid: int = 0,
    cpu: int | None = None,
    target: str,
) -> Descriptor:
    """Open an event that runs a program *freq* times a second, or once for *period* events.

    In process *pid* on all CPUs, or on *cpu*, or both.
    """
    attribute = EventAttr(
        type=kind,
        size=ctypes.sizeof(EventAttr),
        config=config,
        # A union with `sample_freq`, which the flag says.
        sample_period=freq or period,
        flags=ATTR_FREQUENCY if freq else 0,
    )
    process = pid or ANY_PROCESS
    return _open(attribute, process, ANY_CPU if cpu is None else cpu, target=target)


def pmu_type(name: str, *, feature: str) -> int:
    """Return the type of the events of a PMU; `NotSupportedError` if the kernel lacks it."""
    with suppress(FileNotFoundError):
        return int((PMUS / name / "type").read_text())
    raise NotSupportedError(f"this kernel has no {name} events ({feature})", feature=feature)


def pmu_name(kind: int) -> str:
    """Return the name of the PMU whose events have the type *kind*, "" if none has."""
    for path in PMUS.glob("*/type"):
        with suppress(OSError, ValueError):  # its module is removed at this moment
            if int(path.read_text()) == kind:
                return path.parent.name
    return ""


def open_kprobe(
    function: str, *, offset: int = 0, at_return: bool = False, target: str
) -> Descriptor:
    """Open a probe at a function of the kernel, or at its return (Linux 4.17).

    As for tracepoints, on one CPU.
    """
    name = ctypes.create_string_buffer(function.encode())
    attribute = EventAttr(
        type=kprobe_type(),
        size=ctypes.sizeof(EventAttr),
        # `format/retprobe` of the PMU says that it is bit 0.
        config=int(at_return),
        config1=ctypes.addressof(name),
        config2=offset,
    )
    return _open(attribute, ANY_PROCESS, 0, target=target)


def kprobe_type() -> int:
    """Return the type of events that are kprobes; `NotSupportedError` if the kernel lacks them."""
    return pmu_type("kprobe", feature="CONFIG_KPROBE_EVENTS")


def _open(attribute: EventAttr, pid: int, cpu: int, *, target: str) -> Descriptor:
    answer = LIBC.syscall(
        ctypes.c_long(_NUMBER),
        ctypes.byref(attribute),
        pid,
        cpu,
        NO_GROUP,
        ctypes.c_ulong(FLAG_FD_CLOEXEC),
    )
    return Descriptor(checked("perf_event_open", answer, target=target))


def enable(fd: int) -> None:
    """Start recording (PERF_EVENT_IOC_ENABLE of ioctl(2))."""
    fcntl.ioctl(fd, ENABLE, 0)


def lost_records(fd: int) -> int:
    """Return how many records of the event were lost since it was opened (Linux 6.0)."""
    return int(_COUNTS.unpack(os.read(fd, _COUNTS.size))[1])
