"""The one way into bpf(2).

Commands used now and then go through `bpf`. `Call` keeps an attribute for commands that are
repeated: making a structure anew takes longer than a small system call.
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

NUMBERS = {"x86_64": 321, "aarch64": 280}
# A verification that a signal interrupts starts anew; libbpf gives up after five, too.
ATTEMPTS = 5

_NUMBER = NUMBERS.get(os.uname().machine, 280)
_libc_syscall = ctypes.CDLL(None, use_errno=True).syscall
_libc_syscall.restype = ctypes.c_long
Enter = Callable[..., int]
# Every call of this process goes through this name, so that a test can make the Nth one fail.
_enter: Enter = _libc_syscall


def bpf(command: Cmd, attribute: ctypes.Structure, *, target: str = "") -> int:
    """Enter the kernel and return its answer, a new descriptor or 0.

    *target* names what is asked of (`map flows`) in the error that a refusal raises.
    """
    call = Call(command, attribute)
    for _ in range(ATTEMPTS):
        answer = call.enter()
        if answer >= 0:
            return answer
        if not call.was_interrupted():
            break
    raise call.error(target)


class Call:
    """One command whose attribute is filled in again for every call; not for two threads at once.

    After a refusal `error` says why. It does not try again when a signal came between; of the
    commands that are repeated none answers so.
    """

    __slots__ = ("_arguments", "attribute", "command")

    def __init__(self, command: Cmd, attribute: ctypes.Structure) -> None:
        self.command = command
        self.attribute = attribute
        # Without argtypes ctypes takes these as they are: half the time of a conversion.
        self._arguments = (_NUMBER, int(command), ctypes.byref(attribute), ctypes.sizeof(attribute))

    def enter(self) -> int:
        """Enter the kernel once and return its answer, negative when it refused."""
        return _enter(*self._arguments)

    def error(self, target: str = "") -> BpfError:
        """Return the exception for the refusal just met."""
        subtype = next(
            (getattr(self.attribute, name, 0) for name in _SUBTYPES.get(self.command, ())), 0
        )
        code = ctypes.get_errno()
        link_type = None
        if self.command == Cmd.LINK_CREATE:
            link_type = link_type_of(self.attribute.attach_type)
        return syscall_error(
            self.command, code, target=target, subtype=subtype, link_type=link_type
        )

    def was_interrupted(self) -> bool:
        """Whether the refusal just met only asks to try again."""
        code = ctypes.get_errno()
        return code == errno.EINTR or (code == errno.EAGAIN and self.command == Cmd.PROG_LOAD)


_SUBTYPES = {Cmd.MAP_CREATE: ("map_type",), Cmd.PROG_LOAD: ("prog_type",)}


@contextmanager
def fail_call(nth: int, code: int) -> Iterator[None]:
    """Let the *nth* call of bpf(2) from here on (the first is 1) be refused with errno *code*.

    The kernel is not entered for that one. This is for tests, and counts the calls of all threads.
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
