"""Confines this process for good: no new privileges, only some commands of bpf(2) (prctl(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection
from typing import Final

from bpfpin.syscall.call import LIBC, NUMBERS, checked
from bpfpin.uapi import Cmd

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_MODE_FILTER: Final = 2  # SECCOMP_MODE_FILTER
# Classic BPF as seccomp(2) runs it: code, jumps if true and false, constant (linux/filter.h).
_INSTRUCTION: Final = struct.Struct("<HBBI")
_LOAD, _IF_EQUAL, _IF_NOT_BELOW, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
# Offsets in struct seccomp_data of linux/seccomp.h; the command is the lower half of args[0].
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_X32: Final = 0x40000000  # the bit in the numbers of the x32 table


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.c_void_p))


def refuse_new_privileges() -> None:
    """Let no program that this process executes have more rights (PR_SET_NO_NEW_PRIVS)."""
    checked("prctl", LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def end_with_parent(signal: int) -> None:
    """Get *signal* when the parent ends (PR_SET_PDEATHSIG); a change of user clears this."""
    checked("prctl", LIBC.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def allow_bpf(commands: Collection[Cmd]) -> None:
    """Refuse all other commands of bpf(2) to this process with EPERM (seccomp(2)).

    A descriptor allows more than reading. With that of a program, a process may run the program on
    packets of its own. With the read-only one of a map, it may pin the map and open the pin for
    writing.
    After `refuse_new_privileges`. Does nothing on an architecture that bpfpin does not know.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return
    code = _filter(_ARCHITECTURES[machine], NUMBERS[machine], commands)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    answer = LIBC.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
    checked("prctl", answer, target="the filter of bpf(2)")


def _filter(architecture: int, number: int, commands: Collection[Cmd]) -> bytes:
    count = len(commands)
    # The last two instructions refuse and allow; jumps count from the next instruction.
    refuse = 6 + count
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, refuse - 2, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_NOT_BELOW, refuse - 4, 0, _X32),
        (_IF_EQUAL, 0, refuse + 1 - 5, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *(
            (_IF_EQUAL, refuse + 1 - at, 0, int(command))
            for at, command in enumerate(commands, start=7)
        ),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)
