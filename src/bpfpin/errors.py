"""Every exception that bpfpin raises.

BpfError
├── SyscallError(OSError)              a system call failed: .command .errno .target
│   ├── VerifierError                  the verifier refused a program: .log
│   ├── PermissionDeniedError(PermissionError)   a privilege is missing: .missing
│   ├── KeyNotFoundError(KeyError)     the map does not have the key
│   │   └── EmptyMapError(IndexError)  the queue or stack is empty
│   ├── IdNotFoundError(LookupError)   no map, program, link or BTF has the id
│   ├── KeyExistsError                 the key exists and NOEXIST was asked
│   ├── MapFullError                   no room for another key
│   ├── ReadOnlyMapError               the map is frozen or was opened read-only
│   └── NotSupportedError              the kernel or driver lacks it: .feature .since
├── ObjectFileError(ValueError)        the object file is malformed: .path .section .symbol .offset
│   ├── ObjectNotFoundError(FileNotFoundError)   the object or source file does not exist
│   └── ObjectLimitError(LimitError)   it exceeds a limit of bpfpin
├── LimitError                         a limit of bpfpin was exceeded: .limit .asked
├── IncompatibleMapError               an existing map does not fit: .path .differences
├── PinError                           a path in bpffs cannot be used: .path
│   ├── NotBpffsError                  no bpffs is mounted there
│   ├── PrivateMountError              the bpffs ends with this mount namespace
│   ├── PinExistsError                 the name exists
│   ├── PinNotFoundError(FileNotFoundError)
│   ├── PinNameError                   the name cannot be that of a pin
│   ├── PinKindError                   the pin is of another kind
│   └── UnsafePathError                another user could have changed the path
├── BusyError                          it is in use: .holder
│   ├── LockTimeoutError
│   ├── HookBusyError
│   ├── ProgramChangedError
│   └── ValueDiffersError              the value of a map is not the expected one
├── AttachError                        the target of an attachment cannot be used
│   ├── InterfaceNotFoundError
│   ├── CgroupNotFoundError
│   ├── NamespaceNotFoundError
│   ├── TargetNotFoundError
│   └── WrongHookError
├── MissingExtraError(ImportError)     an optional package is not installed
└── UsageError(ValueError)             an argument is wrong: an unknown or ambiguous name

A message names the request and the state that stands against it; `hint` says what to do. A hint
that names an argument of the call has it as data, in a `Fix` (module `hints`).
"""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from bpfpin.hints import Fix
from bpfpin.records import dataclass

_OS_ERROR_FIELDS = ("errno", "strerror", "filename", "filename2")


class ExitCode(IntEnum):
    """The exit status of the command; every exception class names one."""

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
    """A field in which an existing map (*old*) differs from the definition asked for (*new*)."""

    map: str
    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.map}: {self.field}: {self.old} -> {self.new}"


class Portable(Exception):  # noqa: N818 - a base class, not an error
    """An exception that pickle and copy restore completely, whatever its constructor takes.

    By default both call the class with `args`, which has the message only: keyword-only arguments
    then fail (a multiprocessing pool waits forever) and attributes are lost.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "args": self.args}
        if isinstance(self, ImportError):
            state["name"] = self.name
        if isinstance(self, OSError):  # these live in the C structure, not in the dictionary
            state |= {name: getattr(self, name) for name in _OS_ERROR_FIELDS}
        return _blank, (type(self),), state


def _blank(kind: type[Portable]) -> Portable:
    """Return an exception without attributes; BaseException.__setstate__ sets them next."""
    # With several bases `kind.__new__` may be that of a builtin with another memory layout, which
    # refuses to make the object.
    builtin = next((base for base in (OSError, ImportError) if issubclass(kind, base)), Exception)
    return builtin.__new__(kind)


def _set_enoent(error: FileNotFoundError) -> None:
    error.errno, error.strerror = errno_names.ENOENT, os.strerror(errno_names.ENOENT)


class BpfError(Portable):
    """The root of all errors that bpfpin raises on purpose.

    Attributes:
        message: The request, and the state that stands against it.
        fix: What to do, with arguments of the call as data.
        hint: `fix` as a text for Python; may be empty. Assigning a text replaces `fix`.
        exit_code: The exit status of the command.
    """

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str | Fix = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = hint if isinstance(hint, Fix) else Fix((hint,))

    @property
    def hint(self) -> str:
        """What to do, with arguments as they are written in Python."""
        return self.fix.text()

    @hint.setter
    def hint(self, text: str) -> None:
        self.fix = Fix((text,))

    def __str__(self) -> str:
        return self.message


class SyscallError(BpfError, OSError):
    """A system call failed and no subclass fits the errno.

    Attributes:
        message, hint: As in `BpfError`; the message is without the errno.
        command: The kernel's name of the call, such as `BPF_MAP_CREATE`.
        errno: The error number that the kernel returned.
        target: The object of the call: a name, a path or an id.
    """

    def __init__(
        self,
        message: str,
        *,
        command: str = "",
        errno: int = 0,
        target: str = "",
        hint: str | Fix = "",
    ) -> None:
        BpfError.__init__(self, message, hint=hint)
        self.command = command
        self.errno = errno
        self.strerror = os.strerror(errno) if errno else ""
        self.target = target

    def __str__(self) -> str:
        """Return the message, and command and errno in the kernel's words."""
        if not self.errno:
            return self.message
        name = errno_names.errorcode.get(self.errno, str(self.errno))
        command = f"{self.command}: " if self.command else ""
        return f"{self.message} ({command}{name}, {self.strerror})"


class VerifierError(SyscallError):
    """The verifier refused a program.

    The program is at fault. A malformed object file is an `ObjectFileError`; a program type that
    the kernel lacks is a `NotSupportedError`.

    Attributes:
        message, errno: As in `SyscallError`; the errno is EACCES by default.
        log: The whole log of the verifier.
        telling_line: The line of the log that has the reason.
        reason: The kernel's longer explanation; empty before Linux 7.3, and for some refusals.
        suggestion: The kernel's own hint; empty where `reason` is.
        cause: The kind of problem, such as "null-check"; empty if bpfpin does not know it.
        file: The C file of the refused instruction; empty without line information.
        line: The line in `file`; 0 without line information.
        source: The text of that line.
        instructions: The last instructions before the refusal.
        registers: The states of the registers of these instructions, by name.
        context: All of this as lines to show.
    """

    exit_code = ExitCode.REFUSED
    cause = file = source = reason = suggestion = ""
    line = 0
    instructions: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

    def __init__(
        self, message: str, *, log: str, telling_line: str = "", errno: int = 13, **known: str
    ) -> None:
        """Make the error; *known* has `target` and `hint` of a `SyscallError`."""
        super().__init__(message, command="BPF_PROG_LOAD", errno=errno, **known)
        self.log = log
        self.telling_line = telling_line
        self.registers: dict[str, str] = {}

    def __str__(self) -> str:
        lines = [super().__str__(), *self.context, self.telling_line, self.reason]
        return "\n  ".join(filter(None, lines))


class PermissionDeniedError(SyscallError, PermissionError):
    """The caller lacks a privilege.

    A map that nobody may write is a `ReadOnlyMapError`.

    Attributes:
        message, command, errno, target, hint: As in `SyscallError`.
        missing: Names of the missing capabilities, such as `CAP_BPF`; empty if unknown.
    """

    exit_code = ExitCode.PRIVILEGE

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        command: str = "",
        errno: int = errno_names.EPERM,
        target: str = "",
        hint: str | Fix = "",
    ) -> None:
        super().__init__(message, command=command, errno=errno, target=target, hint=hint)
        self.missing = tuple(missing)


class KeyNotFoundError(SyscallError, KeyError):
    """The map does not have the key; also a `KeyError`.

    An index past the end of an array is one, too. An id without an object is an `IdNotFoundError`.
    """

    exit_code = ExitCode.NOT_FOUND


class EmptyMapError(KeyNotFoundError, IndexError):
    """The queue or stack is empty; also an `IndexError`, as for an empty list."""


class IdNotFoundError(SyscallError, LookupError):
    """No map, program, link or BTF object has the id or name; also a `LookupError`.

    The object may have been freed between two calls. A pin that does not exist is a
    `PinNotFoundError`.
    """

    exit_code = ExitCode.NOT_FOUND


class KeyExistsError(SyscallError):
    """The key exists, and the call asked for a new one (`UpdateFlag.NOEXIST`).

    A name in bpffs that exists is a `PinExistsError`.
    """

    exit_code = ExitCode.BUSY


class MapFullError(SyscallError):
    """The map has `max_entries` entries and takes no new key.

    An index past the end of an array is a `KeyNotFoundError`.
    """

    exit_code = ExitCode.BUSY


class ReadOnlyMapError(SyscallError):
    """The map is frozen, or was opened read-only.

    A caller without the privilege to write gets a `PermissionDeniedError`.
    """

    exit_code = ExitCode.PRIVILEGE


class NotSupportedError(SyscallError):
    """The kernel or the driver lacks a feature.

    Attributes:
        message, command, errno, target, hint: As in `SyscallError`.
        feature: Name of the feature.
        since: The first Linux version that has it; empty if unknown.
    """

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
        hint: str | Fix = "",
    ) -> None:
        super().__init__(message, command=command, errno=errno, target=target, hint=hint)
        self.feature = feature
        self.since = since


class ObjectFileError(BpfError, ValueError):
    """The object file is malformed, or needs something that bpfpin does not support.

    The file is at fault. A program that the verifier refuses is a `VerifierError`.

    Attributes:
        message, hint: As in `BpfError`.
        path: The file; empty if it was given as bytes.
        section: Name of the section with the problem; may be empty.
        symbol: Name of the symbol with the problem; may be empty.
        offset: Offset in the section, or in the file without a section; None if unknown.
    """

    exit_code = ExitCode.REFUSED

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        section: str = "",
        symbol: str = "",
        offset: int | None = None,
        hint: str | Fix = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.section = section
        self.symbol = symbol
        self.offset = offset

    def __str__(self) -> str:
        parts = [
            f"section {self.section}" if self.section else "",
            f"symbol {self.symbol}" if self.symbol else "",
            f"offset {self.offset:#x}" if self.offset is not None else "",
        ]
        where = ", ".join(part for part in parts if part)
        path = f"{self.path}: " if self.path else ""
        return f"{path}{self.message}" + (f" ({where})" if where else "")


class ObjectNotFoundError(ObjectFileError, FileNotFoundError):
    """The object or source file does not exist; also a `FileNotFoundError`."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, message: str, **known: Any) -> None:
        """Take *message*, and as *known* the other arguments of `ObjectFileError`."""
        super().__init__(message, **known)
        _set_enoent(self)


class LimitError(BpfError):
    """A limit of bpfpin, which protects the host, was exceeded; the kernel was not asked.

    A map that is full is a `MapFullError`.

    Attributes:
        message, hint: As in `BpfError`.
        limit: The limit.
        asked: The number that exceeds it.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, limit: int, asked: int, hint: str | Fix = "") -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        self.asked = asked


class ObjectLimitError(LimitError, ObjectFileError):
    """An object file exceeds a limit of bpfpin, such as its size or its number of symbols."""


class IncompatibleMapError(BpfError):
    """An existing map does not fit the definition asked for.

    A pin that is not a map is a `PinKindError`.

    Attributes:
        message, hint: As in `BpfError`.
        path: The pin of the map; may be empty.
        differences: Every field that differs.
    """

    exit_code = ExitCode.INCOMPATIBLE

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        differences: Sequence[Difference] = (),
        hint: str | Fix = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.differences = tuple(differences)

    def __str__(self) -> str:
        return "\n  ".join([self.message, *map(str, self.differences)])


class PinError(BpfError):
    """A path in bpffs cannot be used; the subclasses tell why.

    Attributes:
        message, hint: As in `BpfError`.
        path: The path.
    """

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, *, path: str = "", hint: str | Fix = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class NotBpffsError(PinError):
    """The directory for pins is not in a bpffs.

    A pin that is missing in a bpffs is a `PinNotFoundError`.
    """

    exit_code = ExitCode.NOT_FOUND


class PrivateMountError(PinError):
    """The bpffs is only mounted in this mount namespace, so its pins would end with it."""

    exit_code = ExitCode.REFUSED


class PinExistsError(PinError):
    """The name in bpffs exists already.

    A key of a map that exists is a `KeyExistsError`.
    """

    exit_code = ExitCode.BUSY


class PinNotFoundError(PinError, FileNotFoundError):
    """The pin or pin set does not exist; also a `FileNotFoundError`.

    Attributes:
        message, path, hint: As in `PinError`.
    """

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, message: str, *, path: str = "", hint: str | Fix = "") -> None:
        super().__init__(message, path=path, hint=hint)
        _set_enoent(self)


class PinNameError(PinError, ValueError):
    """The name cannot be that of a pin: not a C identifier, or more than one path component."""

    exit_code = ExitCode.REFUSED


class PinKindError(PinError):
    """The path is not a pin of the kind asked for: a program, link, directory or symlink.

    A map whose definition differs is an `IncompatibleMapError`.
    """

    exit_code = ExitCode.INCOMPATIBLE


class UnsafePathError(PinError):
    """Another user could have changed the path, or bpfpin did not make it and leaves it alone."""

    exit_code = ExitCode.BUSY


class BusyError(BpfError):
    """Something is in use by another command, program or user.

    Attributes:
        message, hint: As in `BpfError`.
        holder: Its user, such as `program id 7`; empty if unknown.
    """

    exit_code = ExitCode.BUSY

    def __init__(self, message: str, *, holder: str = "", hint: str | Fix = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class LockTimeoutError(BusyError):
    """Another command held the lock of the pin root during the whole time limit."""


class HookBusyError(BusyError):
    """Another program is attached to the hook.

    A program that was replaced during the call is a `ProgramChangedError`.
    """


class ProgramChangedError(BusyError):
    """Another process changed the program of a hook between the check and the update."""


class ValueDiffersError(BusyError):
    """The value of a map is not the one that a conditional change expects; nothing was written."""


class AttachError(BpfError):
    """A program could not be attached because of its target; the subclasses tell why.

    A hook that is in use is a `HookBusyError`.
    """

    exit_code = ExitCode.FAILURE


class InterfaceNotFoundError(AttachError):
    """The network device does not exist in the network namespace."""

    exit_code = ExitCode.NOT_FOUND


class CgroupNotFoundError(AttachError):
    """The cgroup does not exist, or is not in a cgroup version 2 hierarchy."""

    exit_code = ExitCode.NOT_FOUND


class NamespaceNotFoundError(AttachError):
    """The network namespace does not exist."""

    exit_code = ExitCode.NOT_FOUND


class TargetNotFoundError(AttachError):
    """The function, tracepoint, … that a program is to be attached to does not exist."""

    exit_code = ExitCode.NOT_FOUND


class WrongHookError(AttachError):
    """Programs of this type cannot be attached to the hook.

    A hook that the kernel lacks is a `NotSupportedError`.
    """

    exit_code = ExitCode.USAGE


class MissingExtraError(BpfError, ImportError):
    """An optional package is not installed, such as numpy for `Map.to_numpy`.

    The extra of the same name installs it: `pip install 'bpfpin[numpy]'`.
    """

    exit_code = ExitCode.NOT_SUPPORTED

    def __init__(self, package: str) -> None:
        install = f"pip install 'bpfpin[{package}]'"
        BpfError.__init__(self, f"{package} is not installed: {install}", hint=install)
        self.name = package


class UsageError(BpfError, ValueError):
    """An argument is wrong: an unknown or ambiguous program, map, hook or choice.

    A device, cgroup or pin that does not exist has a class of its own.
    """

    exit_code = ExitCode.USAGE
