"""Iterators: programs that run for each task, map, socket … when their link is read."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bpfpin.attach.cgroup_path import open_cgroup
from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.btf.btf import TypeRef
from bpfpin.choices import similar
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.of_format import format_codec
from bpfpin.errors import TargetNotFoundError, UsageError
from bpfpin.hooks import Hook
from bpfpin.objects.kernel.btf import type_in_program, vmlinux_btf
from bpfpin.objects.kernel.info import ProgramInfo, program_info
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.maps.base import BaseMap, Formats
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import (
    IteratorCgroup,
    IteratorLink,
    IteratorMap,
    IteratorTask,
    LinkDetails,
)
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType

_PREFIX: Final = "bpf_iter_"
_CHUNK: Final = 1 << 16
# BPF_CGROUP_ITER_DESCENDANTS_PRE of linux/bpf.h: the cgroup, then those below it.
_CGROUP_AND_BELOW: Final = 2
# What each iterator may be limited to, by the kernel's `attach_target` functions. Others take no
# parameter: the kernel would not look at it, or read it as another one of the same union.
_TASK: Final = ("pid", "tid")
PARAMETERS: Final[dict[str, tuple[str, ...]]] = {
    "task": _TASK,
    "task_file": _TASK,
    "task_vma": _TASK,
    "bpf_map_elem": ("map",),
    "bpf_sk_storage_map": ("map",),
    "sockmap": ("map",),
    "cgroup": ("cgroup",),
}
_OF_MAPS: Final = frozenset(name for name, words in PARAMETERS.items() if words == ("map",))


class IterLink(Link):
    """The link of an iterator: each read runs the program for all that it goes over.

    Others read a pinned link like a file (`cat /sys/fs/bpf/tasks`), and an update of the link
    changes the program of the reads that begin afterwards.
    """

    def read_bytes(self) -> bytes:
        """Run the iterator, and return all that the program writes.

        Raises:
            PermissionDeniedError: CAP_BPF or CAP_PERFMON is missing.
            SyscallError: The program writes more for one element than fits.

        Kernel: BPF_ITER_CREATE, read(2).
        """
        return b"".join(self._chunks())

    def read(self) -> str:
        """Run the iterator, and return the text that the program writes (`BPF_SEQ_PRINTF`).

        Raises what `read_bytes` does.
        """
        return self.read_bytes().decode(errors="replace")

    def records(
        self,
        record_type: str | TypeRef | None = None,
        *,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> Iterator[Any]:
        """Run the iterator, and yield the records that the program writes (`bpf_seq_write`).

        Args:
            record_type: A BTF type, or its name in the BTF of the program (`"struct record"`;
                CAP_SYS_ADMIN).
            value_format: A format of the struct module, a `ctypes.Structure`, or a `NamedTuple` of
                `Annotated[int, "Q"]`, instead of a type.
            raw: Read enumerations as numbers and char arrays as bytes.
            formats: How members are shown: a `Format` or its name by member or path (paths begin
                with `record`).

        Raises:
            UsageError: There is no such type, or the program writes something else: the last
                record is not whole.
        """
        read = self._codec(record_type, value_format, raw=raw, formats=formats)
        return self._decoded(read)

    def _codec(
        self,
        record_type: str | TypeRef | None,
        value_format: Any,
        *,
        raw: bool,
        formats: Formats | None,
    ) -> Codec:
        if value_format is not None:
            return format_codec(value_format, None)
        if record_type is None:
            raise UsageError("the records have no type: give record_type or value_format")
        if isinstance(record_type, str):
            with Program.from_id(self.program_id()) as program:
                record_type = type_in_program(record_type, program.info)
        return codec(record_type, record_type.size, raw=raw, formats=formats, root="record")

    def _decoded(self, read: Codec) -> Iterator[Any]:
        left, size = b"", read.size
        for chunk in self._chunks():
            data = left + chunk
            whole = len(data) // size * size
            yield from read.decode_many(data[:whole], size)
            left = data[whole:]
        if left:
            raise UsageError(
                f"the iterator wrote {len(left)} bytes after the last whole record of {size} bytes:"
                " it writes records of another type"
            )

    def _chunks(self) -> Iterator[bytes]:
        place = f"the iterator of link id {self.id}"
        with Descriptor(bpf.iter_create(self.fd, target=place)) as run:
            while True:
                try:
                    chunk = os.read(run.fileno(), _CHUNK)
                # After a million elements without a byte of output the kernel lets others run, and
                # the next read goes on (bpf_seq_read() of kernel/bpf/bpf_iter.c).
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise syscall_error("read", error.errno or 0, target=place) from None
                if not chunk:
                    return
                yield chunk


def attach_iter(
    program: Program,
    *,
    map: BaseMap | None = None,  # noqa: A002 - the kernel's word
    pid: int | None = None,
    tid: int | None = None,
    cgroup: str | Path | None = None,
) -> IterLink:
    """Make the link of an iterator; nothing runs before it is read.

    What it goes over the program says (`iter/task`, `iter/bpf_map` …), and one of the parameters
    limits.

    Args:
        program: A program of type TRACING for the attach type TRACE_ITER.
        map: The map whose elements it goes over, for `bpf_map_elem`, `bpf_sk_storage_map` and
            `sockmap`, which need one.
        pid: The process whose threads it goes over, for `task`, `task_file` and `task_vma`.
        tid: The only thread, for the same.
        cgroup: The cgroup to begin with, for `cgroup`; it goes on to those below. Default: all.

    Returns:
        The link: `read` returns text, `records` typed records; a pin of it can be read as a file.

    Raises:
        UsageError: The iterator takes no such parameter, or needs one.
        TargetNotFoundError: There is no such process or thread.
        CgroupNotFoundError: There is no such cgroup.
        WrongHookError: The program is of another type.
        NotSupportedError: The kernel has no iterators.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_TRACE_ITER (Linux 5.8; *pid* and *tid* 6.1, *cgroup* 6.1).
    """
    require_type(program, Hook.ITER)
    given = {"map": map, "pid": pid, "tid": tid, "cgroup": cgroup}
    words = [word for word, value in given.items() if value is not None]
    name = iterator_of(program.info)
    check_parameters(program.name, name, words)
    with ExitStack() as opened:
        details: ctypes.Structure | None = None
        if map is not None:
            details = IteratorMap(map.fd)
        elif pid is not None or tid is not None:
            _require_task(pid or tid or 0)
            details = IteratorTask(tid=tid or 0, pid=pid or 0)
        elif name == "cgroup":
            folder = None if cgroup is None else opened.enter_context(open_cgroup(cgroup))
            details = IteratorCgroup(_CGROUP_AND_BELOW, folder.fileno() if folder else 0)
        size = ctypes.sizeof(details) if details is not None else 0
        address = ctypes.addressof(details) if details is not None else 0
        created = create_link(
            program,
            0,
            AttachType.TRACE_ITER,
            LinkDetails(iterator=IteratorLink(address, size)),
            place=f"iterator {name}".rstrip(),
        )
    return IterLink(created)


def iterator_of(info: ProgramInfo) -> str:
    """Return what the iterator of a program is called, `task`; "" if that cannot be found out."""
    try:
        btf = vmlinux_btf()
        name = btf.ref(info.attach_btf_id).name if info.attach_btf_id < len(btf) else ""
    except FileNotFoundError:
        return ""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""


def check_parameters(program: str, iterator: str, words: list[str]) -> None:
    """Raise `UsageError` unless *iterator* takes the parameters, and has those that it needs."""
    if not iterator:  # the kernel does not say what it is
        return
    taken = PARAMETERS.get(iterator, ())
    wrong = [word for word in words if word not in taken]
    if wrong:
        raise UsageError(
            f"program {program} goes over {iterator}, which takes no {wrong[0]}",
            hint=f"it takes: {' or '.join(taken)}" if taken else "",
        )
    if len(words) > 1:
        raise UsageError(f"{' and '.join(words)} exclude each other: give one of them")
    if iterator in _OF_MAPS and not words:
        raise UsageError(
            f"program {program} goes over the elements of a map, and none was named",
            hint=f"name it in the target: {iterator},map=NAME",
        )


def _require_task(number: int) -> None:
    # The kernel takes any number, and the iterator then goes over nothing.
    if not Path(f"/proc/{number}").exists():
        raise TargetNotFoundError(f"there is no process or thread {number}")


def parse_target(text: str) -> tuple[str, str, str]:
    """Return iterator, parameter and value of `task`, `task,pid=42`, `bpf_map_elem,map=NAME`."""
    iterator, comma, rest = text.partition(",")
    word, equals, value = rest.partition("=")
    if comma and not (equals and value and word):
        raise UsageError(
            f"{text!r} is not the target of an iterator: after the comma comes a parameter with its"
            " value, such as task,pid=42"
        )
    return iterator, word, value


def _number(value: str, text: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 1 << 31):
        raise UsageError(f"{value!r} (in {text}) is not the number of a process or thread")
    return int(value)


class IteratorCode(HookCode):
    """The code of iterators: the target names the parameter, `bpf_map_elem,map=NAME`."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Make the link."""
        iterator, word, value = parse_target(target.name)
        of_program = iterator_of(program_info(program.fd))
        if of_program and of_program != iterator:
            raise UsageError(
                f"program {program.name} was loaded for the iterator {of_program}, not {iterator}",
                hint=f"load it for that: load(spec, attach_to={{{program.name!r}: {iterator!r}}})",
            )
        check_parameters(program.name, iterator, [word] if word else [])
        with ExitStack() as opened:
            read: dict[str, Callable[[], Any]] = {
                "map": lambda: self._map(value, target, opened),
                "pid": lambda: _number(value, target.name),
                "tid": lambda: _number(value, target.name),
                "cgroup": lambda: value,
            }
            parameters = {word: read[word]()} if word else {}
            return NewAttachment(hook, attach_iter(program, **parameters))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Make the link, which changes nothing, and close it."""
        link = self.attach(program, hook, target, options).link
        assert link is not None
        link.close()
        return ""

    def map_of(self, target: str) -> str:
        """Return the map of the object that the iterator goes over."""
        _, word, value = parse_target(target)
        return value if word == "map" and not value.startswith("/") else ""

    def _map(self, value: str, target: HookTarget, opened: ExitStack) -> BaseMap:
        if value.startswith("/"):
            return opened.enter_context(Map.from_pin(value))
        if value in target.maps:
            return target.maps[value]
        near = similar(value, target.maps) or [*target.maps]
        raise TargetNotFoundError(
            f"the object has no map {value!r} (in {target.name})",
            hint=f"it has: {', '.join(near)}" if near else "it has no maps; name a pin by its path",
        )


CODE = IteratorCode()
