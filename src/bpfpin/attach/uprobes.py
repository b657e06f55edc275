"""Functions of user programs: programs that run when one is entered, or returns, by a link each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.attach.user_files import UserTarget, find_file, function_offset
from bpfpin.errors import UsageError
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.elf.executable import Executable
from bpfpin.records import dataclass
from bpfpin.syscall import perf
from bpfpin.syscall.attr import LinkDetails, PerfEventLink
from bpfpin.uapi import AttachType

FORM: Final = "a function of a file, such as /usr/bin/bash:readline or libc:malloc,pid=1"


@dataclass(frozen=True, slots=True)
class UprobePlace:
    """A place in the code of a file, and the process that is probed, 0 for all.

    *reference_counter* is the offset of a counter that the kernel raises while a probe is there.
    """

    path: Path
    offset: int
    pid: int = 0
    reference_counter: int = 0


def attach_uprobe(
    program: Program,
    path: str | Path,
    function: str | int,
    *,
    pid: int | None = None,
    returns: bool = False,
    cookie: int = 0,
    reference_counter: int = 0,
) -> Link:
    """Attach *program* to a function of a user program or library.

    Closing the link detaches it, unless it is pinned. Processes that run the file, now or later,
    are probed.

    Args:
        program: A program of type KPROBE.
        path: The file: a path, a program in PATH (`bash`), or a library as ld.so(8) finds it
            (`libc`, `libc.so.6`).
        function: Its name, `NAME+OFF`, `NAME@VERSION`, or an offset in the file.
        pid: Probe this process alone, and take *path* as it sees it. Default: all.
        returns: Run when the function returns. Default: when it is entered.
        cookie: The number that bpf_get_attach_cookie() returns in the program.
        reference_counter: Offset in the file of a 16-bit counter that the kernel raises while the
            probe is there (a semaphore of USDT). Default: none.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: There is no such file, function or process, or no code at that offset.
        UsageError: Several functions have the name.
        ObjectFileError: The file is not an ELF file, or damaged.
        NotSupportedError: The kernel has no uprobes, or cannot place one there; or the function is
            an IFUNC.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: perf_event_open(2) with the PMU `uprobe` (Linux 4.17), BPF_LINK_CREATE with
        BPF_PERF_EVENT (Linux 5.15); a reference counter since Linux 4.20.
    """
    hook = Hook.URETPROBE if returns else Hook.UPROBE
    require_type(program, hook)
    process = require_pid(pid)
    place = find_place(find_file(str(path), process), str(function), process)
    place = UprobePlace(place.path, place.offset, place.pid, reference_counter)
    return attach_at(program, hook, place, cookie=cookie)


def require_pid(pid: int | None) -> int:
    """Return *pid*, 0 for None; `UsageError` unless it is the number of a process."""
    if pid is not None and pid <= 0:
        raise UsageError(f"{pid} is not the number of a process")
    return pid or 0


def find_place(path: Path, function: str, pid: int) -> UprobePlace:
    """Return the place of a function, as it is typed, in the file at *path*."""
    with Executable(path) as executable:
        return UprobePlace(path, function_offset(executable, function), pid)


def attach_at(program: Program, hook: Hook, place: UprobePlace, *, cookie: int = 0) -> Link:
    """Attach *program* at a place in a file."""
    name = f"{hook.value} {place.path}+{place.offset:#x}"
    with perf.open_uprobe(
        place.path,
        place.offset,
        pid=place.pid,
        at_return=hook.traits.at_return,
        reference_counter=place.reference_counter,
        target=name,
    ) as event:
        details = LinkDetails(perf_event=PerfEventLink(cookie))
        return Link(
            create_link(program, event.fileno(), AttachType.PERF_EVENT, details, place=name)
        )


class UprobeCode(HookCode):
    """The code of the hooks of functions of user programs."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        require_type(program, hook)
        return NewAttachment(hook, attach_at(program, hook, self._place(target)))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Find the function."""
        self._place(target)
        return ""

    def _place(self, target: HookTarget) -> UprobePlace:
        typed = UserTarget.parse(target.name, form=FORM)
        return find_place(typed.path(), typed.what, typed.pid)


CODE = UprobeCode()
