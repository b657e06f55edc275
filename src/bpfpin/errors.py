"""Every exception that bpfpin raises.

BpfError
├── SyscallError(OSError)              a system call was refused: .command .errno .target
│   ├── VerifierError                  the verifier refused a program: .log
│   ├── PermissionDeniedError(PermissionError)   a privilege is missing: .missing
│   ├── KeyNotFoundError(KeyError)     the map has no such key
│   │   └── EmptyMapError(IndexError)  the queue or stack has no value now
│   ├── IdNotFoundError(LookupError)   no map, program, link or BTF has that id
│   ├── KeyExistsError                 the key is there and NOEXIST was asked
│   ├── MapFullError                   no room for another key
│   ├── ReadOnlyMapError               the map or this handle of it may not be written
│   └── NotSupportedError              this kernel or driver lacks it: .feature .since
├── ObjectFileError(ValueError)        the object file is malformed: .path .section .symbol .offset
│   ├── ObjectNotFoundError(FileNotFoundError)   there is no such object or source file
│   └── ObjectLimitError(LimitError)   it has more of something than bpfpin reads
├── LimitError                         a limit of ours, not the kernel's: .limit .asked
├── IncompatibleMapError               a map does not fit what was asked: .path .differences
├── PinError                           a name in bpffs
│   ├── NotBpffsError                  no bpffs is there
│   ├── PrivateMountError              the bpffs ends with this process's mount namespace
│   ├── PinExistsError                 the name is taken
│   ├── PinNotFoundError(FileNotFoundError)
│   ├── PinNameError                   no legal name for a pin
│   ├── PinKindError                   a pin, but of another kind than asked
│   └── UnsafePathError                somebody else could have changed the path
├── BusyError                          somebody else holds it: .holder
│   ├── LockTimeoutError
│   ├── HookBusyError
│   ├── ProgramChangedError
│   └── ValueDiffersError              a value of a map is not what was to be changed
├── AttachError                        where a program was to be attached
│   ├── InterfaceNotFoundError
│   ├── CgroupNotFoundError
│   ├── NamespaceNotFoundError
│   └── WrongHookError
├── MissingExtraError(ImportError)     a package that bpfpin needs for this is not installed
└── UsageError(ValueError)             a name or choice that the object or the set does not have

A message says what was asked, what is there and, in `hint`, what to do.
"""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_OS_ERROR_FIELDS = ("errno", "strerror", "filename", "filename2")


class ExitCode(IntEnum):
    """What the command answers to the shell; every exception class names one."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    PRIVILEGE = 3
    NOT_FOUND = 4
    REFUSED = 5
    INCOMPATIBLE = 6
    BUSY = 7
    NOT_SUPPORTED = 8
    FOUND = 10
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which a map is not what was asked; *old* is there, *new* was asked."""

    map: str
    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.map}: {self.field}: {self.old} -> {self.new}"


class Portable(Exception):  # noqa: N818  (no error by itself)
    """An exception that pickle and copy bring back whole, whatever its constructor takes.

    Python would call the class with `args`, which has the message alone, so that keyword-only
    arguments fail (a multiprocessing pool waits for ever then) and attributes are lost.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "args": self.args}
        if isinstance(self, ImportError):
            state["name"] = self.name
        if isinstance(self, OSError):  # these live in the C structure, not in the dictionary
            state |= {name: getattr(self, name) for name in _OS_ERROR_FIELDS}
        return _blank, (type(self),), state


def _blank(kind: type[Portable]) -> Portable:
    """Return an exception whose attributes are set next, by BaseException.__setstate__."""
    # The builtin that decides the memory layout makes it: with several bases `kind.__new__` may be
    # that of another one, which refuses.
    builtin = next((one for one in (OSError, ImportError) if issubclass(kind, one)), Exception)
    return builtin.__new__(kind)


def _say_missing(error: FileNotFoundError) -> None:
    error.errno, error.strerror = errno_names.ENOENT, os.strerror(errno_names.ENOENT)


class BpfError(Portable):
    """The root of all errors of bpfpin; catching it catches everything we raise on purpose."""

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class SyscallError(BpfError, OSError):
    """The kernel refused a call and no neighbour below says it better.

    `command` is the kernel's name of the call (`BPF_MAP_CREATE`), `errno` its answer, `target`
    what it was asked of.
    """

    def __init__(
        self, message: str, *, command: str = "", errno: int = 0, target: str = "", hint: str = ""
    ) -> None:
        BpfError.__init__(self, message, hint=hint)
        self.command = command
        self.errno = errno
        self.strerror = os.strerror(errno) if errno else ""
        self.target = target

    def __str__(self) -> str:
        """Say what was asked, then the kernel's own words."""
        if not self.errno:
            return self.message
        name = errno_names.errorcode.get(self.errno, str(self.errno))
        command = f"{self.command}: " if self.command else ""
        return f"{self.message} ({command}{name}, {self.strerror})"


class VerifierError(SyscallError):
    """The verifier refused a program; the program is at fault, not the object file's form.

    `log` is all that it wrote, `telling_line` the reason in it. What was made of it is empty where
    nothing was: `cause` ("null-check"), `file`, `line` and `source` of C, the last `instructions`,
    the states of the `registers` that matter, and `context`, all these as lines to show.
    """

    exit_code = ExitCode.REFUSED
    cause = file = source = ""
    line = 0
    instructions: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

    def __init__(
        self, message: str, *, log: str, telling_line: str = "", errno: int = 13, **known: str
    ) -> None:
        super().__init__(message, command="BPF_PROG_LOAD", errno=errno, **known)
        self.log = log
        self.telling_line = telling_line
        self.registers: dict[str, str] = {}

    def __str__(self) -> str:
        said = [super().__str__(), *self.context, self.telling_line]
        return "\n  ".join(filter(None, said))


class PermissionDeniedError(SyscallError, PermissionError):
    """A privilege is missing; `missing` names it (`CAP_BPF`). Not a read-only map: see below."""

    exit_code = ExitCode.PRIVILEGE

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        command: str = "",
        errno: int = errno_names.EPERM,
        target: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, command=command, errno=errno, target=target, hint=hint)
        self.missing = tuple(missing)


class KeyNotFoundError(SyscallError, KeyError):
    """The map has no such key; ordinary `except KeyError` works."""

    exit_code = ExitCode.NOT_FOUND


class EmptyMapError(KeyNotFoundError, IndexError):
    """The queue or the stack holds no value now: an `IndexError`, as for an empty list."""


class IdNotFoundError(SyscallError, LookupError):
    """No map, program, link or BTF has that id, or it went away meanwhile."""

    exit_code = ExitCode.NOT_FOUND


class KeyExistsError(SyscallError):
    """The key is there already, and `UpdateFlag.NOEXIST` was asked."""

    exit_code = ExitCode.BUSY


class MapFullError(SyscallError):
    """The map holds `max_entries` entries already; an index past the end is `KeyNotFoundError`."""

    exit_code = ExitCode.BUSY


class ReadOnlyMapError(SyscallError):
    """The map is frozen, or this descriptor of it was opened for reading only."""

    exit_code = ExitCode.PRIVILEGE


class NotSupportedError(SyscallError):
    """The kernel or the driver lacks the feature; `since` is the first Linux that has it."""

    exit_code = ExitCode.NOT_SUPPORTED

    def __init__(
        self,
        message: str,
        *,
        feature: str = "",
        since: str = "",
        command: str = "",
        errno: int = errno_names.EOPNOTSUPP,
        target: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, command=command, errno=errno, target=target, hint=hint)
        self.feature = feature
        self.since = since


class ObjectFileError(BpfError, ValueError):
    """The object file is malformed, or asks for what bpfpin does not do; the file is at fault."""

    exit_code = ExitCode.REFUSED

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        section: str = "",
        symbol: str = "",
        offset: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.section = section
        self.symbol = symbol
        self.offset = offset

    def __str__(self) -> str:
        places = [
            f"section {self.section}" if self.section else "",
            f"symbol {self.symbol}" if self.symbol else "",
            f"offset {self.offset:#x}" if self.offset is not None else "",
        ]
        where = ", ".join(place for place in places if place)
        path = f"{self.path}: " if self.path else ""
        return f"{path}{self.message}" + (f" ({where})" if where else "")


class ObjectNotFoundError(ObjectFileError, FileNotFoundError):
    """There is no such object or source file; ordinary `except FileNotFoundError` works."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, message: str, **known: Any) -> None:
        super().__init__(message, **known)
        _say_missing(self)


class LimitError(BpfError):
    """A limit of ours, there to protect the host, was passed; the kernel was not asked."""

    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, limit: int, asked: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        self.asked = asked


class ObjectLimitError(LimitError, ObjectFileError):
    """An object has more of something than bpfpin reads, so that no file can eat the host."""


class IncompatibleMapError(BpfError):
    """A map that exists does not fit the definition asked for; all differences are listed."""

    exit_code = ExitCode.INCOMPATIBLE

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        differences: Sequence[Difference] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.differences = tuple(differences)

    def __str__(self) -> str:
        return "\n  ".join([self.message, *map(str, self.differences)])


class PinError(BpfError):
    """A name in bpffs is not what it should be; its children say which way."""

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class NotBpffsError(PinError):
    """No bpffs is mounted where pins were to be; not a missing pin."""

    exit_code = ExitCode.NOT_FOUND


class PrivateMountError(PinError):
    """The bpffs is mounted in this mount namespace alone: pins in it would not outlive it."""

    exit_code = ExitCode.REFUSED


class PinExistsError(PinError):
    """The name is taken."""

    exit_code = ExitCode.BUSY


class PinNotFoundError(PinError, FileNotFoundError):
    """Nothing is pinned under that name; ordinary `except FileNotFoundError` works."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(message, path=path, hint=hint)
        _say_missing(self)


class PinNameError(PinError, ValueError):
    """The name cannot be a pin's: no C identifier, or more than one path component."""

    exit_code = ExitCode.REFUSED


class PinKindError(PinError):
    """Something of another kind is there: a program, a link, a directory, a symlink."""

    exit_code = ExitCode.INCOMPATIBLE


class UnsafePathError(PinError):
    """Somebody else owns or may write a component of the path, or it is not ours to change."""

    exit_code = ExitCode.BUSY


class BusyError(BpfError):
    """Somebody else holds what was asked for; `holder` says who."""

    exit_code = ExitCode.BUSY

    def __init__(self, message: str, *, holder: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class LockTimeoutError(BusyError):
    """Another command held the pin root's lock for the whole time limit."""


class HookBusyError(BusyError):
    """Another program is attached at the hook."""


class ProgramChangedError(BusyError):
    """Somebody changed the program at a hook between our look and our update."""


class ValueDiffersError(BusyError):
    """A value of a map is not the one that was to be changed; nothing was written."""


class AttachError(BpfError):
    """A program could not be attached for a reason of the place, not of the program."""

    exit_code = ExitCode.FAILURE


class InterfaceNotFoundError(AttachError):
    """No network device of that name in that namespace."""

    exit_code = ExitCode.NOT_FOUND


class CgroupNotFoundError(AttachError):
    """No such folder in the cgroup2 hierarchy."""

    exit_code = ExitCode.NOT_FOUND


class NamespaceNotFoundError(AttachError):
    """No network namespace of that name."""

    exit_code = ExitCode.NOT_FOUND


class WrongHookError(AttachError):
    """The program's type cannot run at that hook."""

    exit_code = ExitCode.USAGE


class MissingExtraError(BpfError, ImportError):
    """A package that only this needs is not installed: numpy for `Map.to_numpy`.

    It comes with the extra of its name: `pip install 'bpfpin[numpy]'`.
    """

    exit_code = ExitCode.NOT_SUPPORTED

    def __init__(self, package: str) -> None:
        install = f"pip install 'bpfpin[{package}]'"
        BpfError.__init__(self, f"{package} is not installed: {install}", hint=install)
        self.name = package


class UsageError(BpfError, ValueError):
    """A program, map, hook or choice was named that the object or the set does not have."""

    exit_code = ExitCode.USAGE
