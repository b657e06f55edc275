"""Many functions of a user program by one link, named by patterns."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Final

from bpfpin.assembler import Assembler
from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.attach.uprobes import require_pid
from bpfpin.attach.user_files import UserTarget, find_file, function_offsets
from bpfpin.errors import NotSupportedError, SyscallError
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.elf.executable import Executable
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec
from bpfpin.syscall.attr import LinkDetails, UprobeMultiLink
from bpfpin.syscall.errno_table import InvalidArgumentError

_FORM: Final = "functions of a file, such as /usr/bin/bash:read* or libc:*alloc,pid=1"
_RETURN: Final = 1  # BPF_F_UPROBE_MULTI_RETURN of linux/bpf.h


@dataclass(frozen=True, slots=True)
class UprobePlaces:
    """Places in the code of a file, and the process that is probed, 0 for all.

    By place: *cookies* and *reference_counters*, the offset of a counter each; empty for none.
    """

    path: Path
    offsets: Sequence[int]
    pid: int = 0
    cookies: Sequence[int] = field(default=())
    reference_counters: Sequence[int] = field(default=())


def attach_uprobe_multi(
    program: Program,
    path: str | Path,
    functions: str | int | Iterable[str | int],
    *,
    pid: int | None = None,
    returns: bool = False,
    session: bool = False,
    cookie: int = 0,
) -> Link:
    """Attach *program* to many functions of a user program or library, by one link.

    Closing the link detaches it, unless it is pinned.

    Args:
        program: A program of type KPROBE for the attach type TRACE_UPROBE_MULTI (sections
            `uprobe.multi`, `uretprobe.multi`), or TRACE_UPROBE_SESSION (`uprobe.session`).
        path: The file, as `attach_uprobe` takes it.
        functions: One or more: a pattern with `*` and `?`, or what `attach_uprobe` takes.
        pid: Probe this process alone. Default: all.
        returns: Run when the functions return. Default: when they are entered.
        session: Run when they are entered, and again when they return, as a session.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: There is no such file or process, or no function matches.
        UsageError: Several functions have a name that is not a pattern.
        ObjectFileError: The file is not an ELF file, or damaged.
        NotSupportedError: The kernel has no such links, or a function is an IFUNC.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_TRACE_UPROBE_MULTI (Linux 6.6), BPF_TRACE_UPROBE_SESSION
        (Linux 6.13).
    """
    hook = Hook.UPROBE_SESSION if session else Hook.UPROBE_MULTI
    hook = Hook.URETPROBE_MULTI if returns else hook
    require_links(hook)
    words = [functions] if isinstance(functions, str | int) else functions
    places = find_places(find_file(str(path), require_pid(pid)), map(str, words), pid or 0)
    cookies = [cookie] * len(places.offsets) if cookie else []
    return attach_at(program, hook, UprobePlaces(places.path, places.offsets, places.pid, cookies))


def find_places(path: Path, functions: Iterable[str], pid: int) -> UprobePlaces:
    """Return the places of functions, as they are typed, in the file at *path*."""
    with Executable(path) as executable:
        offsets = [offset for text in functions for offset in function_offsets(executable, text)]
    return UprobePlaces(path, list(dict.fromkeys(offsets)), pid)


def attach_at(program: Program, hook: Hook, places: UprobePlaces) -> Link:
    """Attach *program* at places of a file, where the kernel has the links of *hook*."""
    require_type(program, hook)
    name = f"{hook.value} {places.path}"
    try:
        return _create(program, hook, places, name)
    except InvalidArgumentError as error:
        attach_type = hook.attach_type.name if hook.attach_type else ""
        error.hint = f"the program has to be loaded for the attach type {attach_type}"
        raise


def _create(program: Program, hook: Hook, places: UprobePlaces, name: str) -> Link:
    path = ctypes.create_string_buffer(os.fsencode(places.path))
    arrays = [_numbers(it) for it in (places.offsets, places.reference_counters, places.cookies)]
    details = UprobeMultiLink(
        ctypes.addressof(path),
        *(ctypes.addressof(array) if array else 0 for array in arrays),
        len(places.offsets),
        _RETURN if hook.traits.at_return else 0,
        places.pid,
    )
    attach_type = hook.attach_type
    assert attach_type is not None
    more = LinkDetails(uprobe_multi=details)
    return Link(create_link(program, 0, attach_type, more, place=name))


def _numbers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_uint64] | None:
    return (ctypes.c_uint64 * len(numbers))(*numbers) if numbers else None


def require_links(hook: Hook) -> None:
    """Raise `NotSupportedError` if the kernel does not have the links of *hook*."""
    if not kernel_has_links(hook):
        raise NotSupportedError(
            f"this kernel has no links at many functions of a program ({hook.value},"
            f" Linux {hook.traits.since})",
            feature=hook.value,
            since=hook.traits.since,
        )


@cache
def kernel_has_links(hook: Hook) -> bool:
    """Whether the kernel has the links of *hook*; it says EINVAL to all that it does not know."""
    code = Assembler("probe")
    code.leave()
    spec = ProgramSpec("probe", hook.traits.program_types[0], "", (code.finish(0),), "GPL")
    with Program.load(spec.with_changes(expected_attach_type=hook.attach_type)) as program:
        try:
            # Refused with EBADF as no regular file, after the checks of the request
            # (bpf_uprobe_multi_link_attach() of kernel/trace/bpf_trace.c). libbpf asks so, too.
            _create(program, hook, UprobePlaces(Path("/"), [0]), hook.value).close()
        except InvalidArgumentError:
            return False
        except SyscallError:
            return True
    return True


class UprobeMultiCode(HookCode):
    """The code of the hooks of many functions of user programs."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by one link; the note says how many functions it has."""
        require_links(hook)
        places = self._places(target)
        link = attach_at(program, hook, places)
        return NewAttachment(hook, link, note=self._note(program, target, places))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Find the functions."""
        require_links(hook)
        return self._note(program, target, self._places(target))

    def _places(self, target: HookTarget) -> UprobePlaces:
        typed = UserTarget.parse(target.name, form=_FORM)
        return find_places(typed.path(), [typed.what], typed.pid)

    def _note(self, program: Program, target: HookTarget, places: UprobePlaces) -> str:
        count = len(places.offsets)
        return f"{program.name}: {target.name} is {count} function{'s' * (count != 1)}"


CODE = UprobeMultiCode()
