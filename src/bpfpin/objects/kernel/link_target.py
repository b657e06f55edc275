"""What a link attaches its program to: the facts that `LinkInfo` does not have, by link type.

Tracepoints, functions and files have names, which the kernel writes into buffers whose addresses
stand in the answer; so they are asked for only when they are shown.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Final

from bpfpin.btf.types import Function
from bpfpin.errors import BpfError, IdNotFoundError
from bpfpin.objects.kernel import info as kernel_info
from bpfpin.objects.kernel.btf import BtfHandle, map_btf, vmlinux_btf
from bpfpin.objects.kernel.info import (
    LinkInfo,
    ProgramInfo,
    btf_info,
    link_info,
    program_info,
)
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import LinkInfoAnswer
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import LinkType, PerfEventType, ProgramType

# The longest name is a path of uprobes (PATH_MAX).
_NAME_SIZE: Final = 4096
_WORD: Final = struct.Struct("<I")
_LONG: Final = struct.Struct("<Q")
# BPF_F_KPROBE_MULTI_RETURN and BPF_F_UPROBE_MULTI_RETURN of linux/bpf.h.
_IS_RETURN: Final = 1

Facts = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """What a link attaches its program to.

    Attributes:
        info: The kernel's report of the link.
        kind: The kind of hook as it is typed where the link's type does not say it: `kprobe`,
            `uretprobe`; else empty.
        facts: Names and numbers by their words: `{"tracepoint": "sys_enter"}`.
    """

    info: LinkInfo
    kind: str = ""
    facts: Facts | None = None


class _LinkAnswer:
    """The answer about one link; *name_at* is where the address of a buffer for a name goes."""

    def __init__(
        self, fd: int, name_at: int | None = None, length_at: int = 0, *, size: int = _NAME_SIZE
    ) -> None:
        self._answer = LinkInfoAnswer()
        self._name = ctypes.create_string_buffer(size)
        if name_at is not None:
            _LONG.pack_into(self._answer.place, name_at, ctypes.addressof(self._name))
            _WORD.pack_into(self._answer.place, length_at, size)
        bpf.obj_get_info_by_fd(fd, self._answer)

    @property
    def name(self) -> str:
        return self._name.value.decode(errors="replace")

    def u32(self, at: int) -> int:
        return int(_WORD.unpack_from(self._answer.place, at)[0])

    def s32(self, at: int) -> int:
        return int(struct.unpack_from("<i", self._answer.place, at)[0])

    def u64(self, at: int) -> int:
        return int(_LONG.unpack_from(self._answer.place, at)[0])


def link_target(fd: int, info: LinkInfo) -> LinkTarget:
    """Return what the link *fd* attaches its program to; *info* is its report."""
    read = _READERS.get(info.type)
    if read is None:
        return LinkTarget(info)
    kind, facts = read(fd, info)
    return LinkTarget(info, kind, facts)


def link_targets() -> Iterator[LinkTarget]:
    """Yield all links of the host with their targets (CAP_SYS_ADMIN); each is opened once."""
    for link_id in kernel_info.link_ids():
        with (
            contextlib.suppress(IdNotFoundError),  # it went away meanwhile
            Descriptor(bpf.link_get_fd_by_id(link_id)) as link,
        ):
            yield link_target(link.fileno(), link_info(link.fileno()))


# The offsets below are those of the union in struct bpf_link_info (include/uapi/linux/bpf.h).


def _raw_tracepoint(fd: int, info: LinkInfo) -> tuple[str, Facts]:
    is_typed = False
    with contextlib.suppress(BpfError):  # a program that went away, or is hidden
        is_typed = _program(info.program_id).type == ProgramType.TRACING
    return "tp-btf" if is_typed else "", {"tracepoint": _LinkAnswer(fd, 0, 8).name}


def _iterator(fd: int, _info: LinkInfo) -> tuple[str, Facts]:
    answer = _LinkAnswer(fd, 0, 8)
    facts: Facts = {"iterator": answer.name}
    # Which member of the two unions holds a number depends on the iterator's target.
    if answer.name.startswith(("bpf_map_elem", "bpf_sk_storage_map")):
        facts["map_id"] = answer.u32(12)
    elif answer.name == "cgroup":
        facts["cgroup_id"] = answer.u64(16)
    elif answer.name.startswith("task"):
        facts |= {
            word: number
            for word, number in (("tid", answer.u32(16)), ("pid", answer.u32(20)))
            if number
        }
    return "", facts


def _tracing(fd: int, info: LinkInfo) -> tuple[str, Facts]:
    answer = _LinkAnswer(fd)
    object_id, type_id = answer.u32(4), answer.u32(8)
    facts: Facts = {}
    is_extension = False
    with contextlib.suppress(BpfError):  # a program or BTF that went away, or is hidden
        is_extension = _program(info.program_id).type == ProgramType.EXT
        if is_extension:
            facts["program_id"] = object_id
            object_id = _program(object_id).btf_id
        facts["function"] = function_name(object_id, type_id)
    return "freplace" if is_extension else "", facts


def _program(program_id: int) -> ProgramInfo:
    with Descriptor(bpf.prog_get_fd_by_id(program_id)) as program:
        return program_info(program.fileno())


def function_name(btf_object_id: int, type_id: int) -> str:
    """Return the name of a function or typedef in a BTF object of the kernel or a program.

    Raises `BpfError` if it cannot be opened: that needs CAP_SYS_ADMIN.
    """
    with BtfHandle.from_id(btf_object_id) as handle:
        # The types of vmlinux are read once a process: they are several MB.
        is_vmlinux = btf_info(handle.fd).name == "vmlinux"
    btf = vmlinux_btf() if is_vmlinux else map_btf(btf_object_id)
    kind = btf[type_id]
    return kind.name if isinstance(kind, Function) else kind.name.removeprefix("btf_trace_")


def _netfilter(fd: int, _info: LinkInfo) -> tuple[str, Facts]:
    answer = _LinkAnswer(fd)
    return "", {
        "family": answer.u32(0),
        "hook": answer.u32(4),
        "priority": answer.s32(8),
        "flags": answer.u32(12),
    }


def _kprobe_multi(fd: int, _info: LinkInfo) -> tuple[str, Facts]:
    answer = _LinkAnswer(fd)
    kind = "kretprobe-multi" if answer.u32(12) & _IS_RETURN else "kprobe-multi"
    return kind, {"functions": answer.u32(8), "missed": answer.u64(16)}


def _uprobe_multi(fd: int, _info: LinkInfo) -> tuple[str, Facts]:
    answer = _LinkAnswer(fd, 0, 32)
    kind = "uretprobe-multi" if answer.u32(40) & _IS_RETURN else "uprobe-multi"
    facts: Facts = {"file": answer.name, "functions": answer.u32(36)}
    return kind, facts | ({"pid": answer.u32(44)} if answer.u32(44) else {})


def _perf_event(fd: int, _info: LinkInfo) -> tuple[str, Facts]:
    # The address and the length of the name are at the same place for all kinds of event.
    answer = _LinkAnswer(fd, 8, 16)
    kind = answer.u32(0)
    if kind in (PerfEventType.UPROBE, PerfEventType.URETPROBE):
        return PerfEventType(kind).name.lower(), {"file": answer.name, "offset": answer.u32(20)}
    if kind in (PerfEventType.KPROBE, PerfEventType.KRETPROBE):
        facts: Facts = {"function": answer.name, "offset": answer.u32(20)}
        return PerfEventType(kind).name.lower(), facts | {"missed": answer.u64(32)}
    if kind == PerfEventType.TRACEPOINT:
        return "tracepoint", {"tracepoint": answer.name}
    if kind == PerfEventType.EVENT:
        return "perf-event", {"event_type": answer.u32(16), "config": answer.u64(8)}
    return "", {}


_READERS: dict[int, Callable[[int, LinkInfo], tuple[str, Facts]]] = {
    LinkType.RAW_TRACEPOINT: _raw_tracepoint,
    LinkType.ITER: _iterator,
    LinkType.TRACING: _tracing,
    LinkType.NETFILTER: _netfilter,
    LinkType.KPROBE_MULTI: _kprobe_multi,
    LinkType.UPROBE_MULTI: _uprobe_multi,
    LinkType.PERF_EVENT: _perf_event,
}
