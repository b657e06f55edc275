"""How system calls are made that Python has no function for, and the only entry into bpf(2).

Single commands go through `bpf`. `Call` keeps the attribute of a command that is repeated, because
making a ctypes structure takes longer than a small system call.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bpfpin.errors import BpfError
from bpfpin.syscall.errno_table import link_type_of, syscall_error
from bpfpin.uapi import Cmd

# use_errno: without it the interpreter itself could change errno before it is read.
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
INTERRUPTED_MAX = 5  # attempts of a call that signals interrupt (EINTR)

NUMBERS = {"x86_64": 321, "aarch64": 280}
# The verifier gives up with EAGAIN when a signal is pending (do_check() of kernel/bpf/verifier.c);
# libbpf repeats BPF_PROG_LOAD five times, too.
ATTEMPTS = 5

# All machines with the common table of system calls (asm-generic/unistd.h) have the number 280.
_NUMBER = NUMBERS.get(os.uname().machine, 280)
Enter = Callable[..., int]
# All calls of this process go through this name, so that a test can make the Nth one fail.
_enter: Enter = LIBC.syscall


def uninterrupted(call: Callable[[], int]) -> int:
    """Return the answer of *call*, which is repeated after EINTR."""
    for _ in range(INTERRUPTED_MAX):
        answer = call()
        if answer >= 0 or ctypes.get_errno() != errno.EINTR:
            break
    return answer


def checked(command: str, answer: int, *, target: str = "") -> int:
    """Return *answer*; if it is negative, raise the exception for errno, *command* and *target*."""
    if answer < 0:
        raise syscall_error(command, ctypes.get_errno(), target=target)
    return answer


def bpf(command: Cmd, attribute: ctypes.Structure, *, target: str | Callable[[], str] = "") -> int:
    """Run one command and return the kernel's answer, a new descriptor or 0.

    Repeated after EINTR, and BPF_PROG_LOAD after EAGAIN. An error raises the exception that
    `errno_table.TABLE` has for it; *target* names the object in its message (`map flows`), or
    returns that name.
    """
    # Not by a `Call`: to make one takes as long as a small command.
    arguments = (_NUMBER, int(command), ctypes.byref(attribute), ctypes.sizeof(attribute))
    for _ in range(ATTEMPTS):
        answer = _enter(*arguments)
        if answer >= 0:
            return answer
        if not _is_interruption(command, code := ctypes.get_errno()):
            break
    words = target() if callable(target) else target
    ctypes.set_errno(code)  # of the command, not of what `target` did
    raise Call(command, attribute).error(words)


def _is_interruption(command: Cmd, code: int) -> bool:
    """Whether errno *code* of a command only asks to try again."""
    return code == errno.EINTR or (code == errno.EAGAIN and command == Cmd.PROG_LOAD)


class Call:
    """A command whose attribute is filled in again for each call; for one thread at a time.

    After a negative answer `error` returns the exception. It does not repeat after EINTR: none of
    the commands for which it is used answers so.
    """

    __slots__ = ("_arguments", "attribute", "command")

    def __init__(self, command: Cmd, attribute: ctypes.Structure) -> None:
        self.command = command
        self.attribute = attribute
        # Without argtypes ctypes passes these as they are, in half the time of a conversion.
        # `byref` keeps the attribute alive: the kernel gets its address again with every call.
        self._arguments = (_NUMBER, int(command), ctypes.byref(attribute), ctypes.sizeof(attribute))

    def enter(self) -> int:
        """Run the command once and return the kernel's answer, negative for an error."""
        return _enter(*self._arguments)

    @property
    def errno(self) -> int:
        """The last error of this thread; for answers that are no failure, such as a map's end."""
        return ctypes.get_errno()

    def error(self, target: str = "") -> BpfError:
        """Return the exception for the last error of this thread."""
        subtype = next(
            (getattr(self.attribute, name, 0) for name in _SUBTYPES.get(self.command, ())), 0
        )
        # ctypes saves errno after its call, for each thread: no other code has changed it since.
        code = ctypes.get_errno()
        link_type = None
        if self.command == Cmd.LINK_CREATE:
            link_type = link_type_of(self.attribute.attach_type)
        return syscall_error(
            self.command, code, target=target, subtype=subtype, link_type=link_type
        )


_SUBTYPES = {Cmd.MAP_CREATE: ("map_type",), Cmd.PROG_LOAD: ("prog_type",)}


@contextmanager
def fail_call(nth: int, code: int) -> Iterator[None]:
    """Make the *nth* call of bpf(2) in the block (the first is 1) fail with errno *code*.

    The kernel is not entered for that call. For tests; it counts the calls of all threads.
    """
    global _enter  # noqa: PLW0603  (the seam: the hot path must find no other cost than this name)
    entered, count = _enter, 0

    def enter(*arguments: object) -> int:
        nonlocal count
        count += 1
        if count != nth:
            return entered(*arguments)
        ctypes.set_errno(code)
        return -1

    _enter = enter
    try:
        yield
    finally:
        _enter = entered
