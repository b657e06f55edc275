"""Programs on a socket that the caller has: filters, and the choice among sockets of one port.

The socket holds the program, which ends with the socket. So there are no pins of these, and no
sets.
"""

from __future__ import annotations

import os
import socket as sockets
import struct
from errno import EBADF, EINVAL, ENOENT
from typing import ClassVar, Final, NamedTuple

from bpfpin.errors import ProgramChangedError, UsageError, WrongHookError
from bpfpin.objects.link import LinklessAttachment
from bpfpin.objects.programs.program import Program
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.uapi import ProgramType


class _Option(NamedTuple):
    """The options of setsockopt(2) for one kind of program (asm-generic/socket.h)."""

    what: str
    types: tuple[ProgramType, ...]
    attach: int
    detach: int


_FILTER: Final = _Option("a socket filter", (ProgramType.SOCKET_FILTER,), 50, 27)
_REUSEPORT: Final = _Option(
    "the choice of a socket", (ProgramType.SK_REUSEPORT, ProgramType.SOCKET_FILTER), 52, 68
)
_INT: Final = struct.Struct("=i")


class SocketProgram(LinklessAttachment):
    """A program on a socket.

    It ends with the socket: `close` does nothing, `detach` or the end of `with` removes it before.
    """

    _option: ClassVar[_Option]

    def __init__(self, socket: sockets.socket, program_id: int) -> None:
        """Remember the program *program_id*, which was attached to *socket*."""
        self._socket = socket
        self._program_id = program_id

    def program_id(self) -> int:
        """Return the id of the program that was attached last, 0 after `detach`.

        The kernel does not tell which program a socket has.
        """
        return self._program_id if self._socket.fileno() >= 0 else 0

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Replace the program; each packet is seen by the old one or the new one.

        Args:
            program: The program to run, of the same type.
            expected_old: The program that has to be attached; None for any.

        Raises:
            ProgramChangedError: Another program than *expected_old* was attached.
            UsageError: The socket was closed.
            WrongHookError: The program is of another type.
        """
        if expected_old is not None and self._program_id != expected_old.id:
            raise ProgramChangedError(
                f"the socket runs program id {self._program_id}, not id {expected_old.id}",
                holder=f"program id {self._program_id}",
            )
        _attach(self._socket, self._option, program)
        self._program_id = program.id

    def detach(self) -> None:
        """Remove the program. Does nothing if it, or the socket, is gone.

        Kernel: SO_DETACH_BPF, or SO_DETACH_REUSEPORT_BPF (Linux 5.3).
        """
        if self.program_id():
            self._program_id = 0
            try:
                _set(self._socket, self._option.detach, 0)
            except OSError as error:
                # Somebody else removed it, or closed the descriptor of the socket.
                if error.errno not in (ENOENT, EBADF):
                    raise _refused(error, f"removing {self._option.what}") from None


class _SocketFilter(SocketProgram):
    _option = _FILTER


class _ReuseportProgram(SocketProgram):
    _option = _REUSEPORT


def attach_socket_filter(program: Program, socket: sockets.socket) -> SocketProgram:
    """Attach *program* to a socket: it says how many bytes of each packet the socket receives.

    A socket has one filter; the program takes the place of another one.

    Args:
        program: A program of type SOCKET_FILTER. It returns the number of bytes to keep, 0 to drop
            the packet.
        socket: The socket; it stays the caller's.

    Returns:
        The attachment. The program stays until the socket is closed, or it is detached.

    Raises:
        WrongHookError: The program is of another type.
        UsageError: The socket is closed.
        PermissionDeniedError: Somebody locked the filters of the socket (SO_LOCK_FILTER).

    Kernel: SO_ATTACH_BPF (Linux 3.19).
    """
    _attach(socket, _FILTER, program)
    return _SocketFilter(socket, program.id)


def attach_reuseport(program: Program, socket: sockets.socket) -> SocketProgram:
    """Attach *program* to the sockets of one port: it chooses which of them gets a packet.

    The program is that of the whole group of sockets that share the port (SO_REUSEPORT), and stays
    as long as one of them is open.

    Args:
        program: A program of type SK_REUSEPORT, which chooses by `bpf_sk_select_reuseport()`, or of
            type SOCKET_FILTER, which returns the index of the socket in the group.
        socket: One of the sockets, with the option SO_REUSEPORT; it stays the caller's.

    Returns:
        The attachment.

    Raises:
        WrongHookError: The program is of another type.
        UsageError: The socket is closed, or has no SO_REUSEPORT.
        PermissionDeniedError: Somebody locked the filters of the socket (SO_LOCK_FILTER).

    Kernel: SO_ATTACH_REUSEPORT_EBPF (Linux 4.5; programs of type SK_REUSEPORT 4.19).
    """
    _attach(socket, _REUSEPORT, program)
    return _ReuseportProgram(socket, program.id)


def _attach(socket: sockets.socket, option: _Option, program: Program) -> None:
    if program.type not in option.types:
        kind = getattr(program.type, "name", str(program.type)).lower()
        words = " or ".join(each.name.lower() for each in option.types)
        raise WrongHookError(
            f"program {program.name!r} is of type {kind}, and {option.what} is of type {words}"
        )
    try:
        _set(socket, option.attach, program.fd)
    except OSError as error:
        # reuseport_attach_prog() of net/core/sock_reuseport.c.
        if error.errno == EINVAL and option is _REUSEPORT and not _shares_port(socket):
            raise UsageError(
                "the socket does not share its port",
                hint="before bind(): socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)",
            ) from None
        raise _refused(error, f"program {program.name} as {option.what}") from None


def _set(socket: sockets.socket, option: int, number: int) -> None:
    socket.setsockopt(sockets.SOL_SOCKET, option, _INT.pack(number))


def _shares_port(socket: sockets.socket) -> bool:
    return bool(socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT))


def _refused(error: OSError, target: str) -> Exception:
    if error.errno == EBADF:
        return UsageError(f"{target}: the socket is closed ({os.strerror(EBADF)})")
    return syscall_error("setsockopt", error.errno or 0, target=target)
