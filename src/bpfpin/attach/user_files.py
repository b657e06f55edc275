"""Files of user programs and libraries, found as the shell and the dynamic loader find them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Final

from bpfpin.choices import similar
from bpfpin.errors import NotSupportedError, PermissionDeniedError, TargetNotFoundError, UsageError
from bpfpin.objfile.elf.executable import Executable, FunctionSymbol
from bpfpin.records import dataclass

# ld.so(8): where it looks at last. That of Debian knows the folders of its architecture as well.
_ARCHITECTURE: Final = f"{os.uname().machine}-linux-gnu"
_FOLDERS: Final = (
    *(f"/lib/{_ARCHITECTURE}", f"/usr/lib/{_ARCHITECTURE}"),
    *("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"),
)
_PROGRAMS: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CACHE: Final = "etc/ld.so.cache"
# struct cache_file_new and file_entry_new of glibc's sysdeps/generic/dl-cache.h.
_CACHE_MAGIC: Final = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = struct.Struct("<20sII20x")
_CACHE_ENTRY = struct.Struct("<iIIIQ")
# The flags of libraries for programs of this machine: FLAG_ELF_LIBC6 with FLAG_X8664_LIB64, or
# with FLAG_AARCH64_LIB64.
_CACHE_FLAGS: Final = {"x86_64": 0x303, "aarch64": 0xA03}
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_PROCESS: Final = re.compile(r"(.*),pid=([0-9]+)", re.DOTALL)
_SUGGESTIONS: Final = 5
_DELETED: Final = " (deleted)"  # of a file without a name, in /proc/PID/maps


@dataclass(frozen=True, slots=True)
class UserTarget:
    """The target of a probe as the user types it: `FILE:WHAT[,pid=N]`.

    *pid* is the process that is probed, 0 for all that run the file.
    """

    file: str
    what: str
    pid: int = 0

    @classmethod
    def parse(cls, text: str, *, parts: int = 1, form: str) -> UserTarget:
        """Parse *text*; *what* has *parts* words with a colon before each.

        `UsageError` if it has another *form*.
        """
        matches = _PROCESS.fullmatch(text)
        place, pid = (matches[1], int(matches[2])) if matches else (text, 0)
        file, *words = place.rsplit(":", parts)
        if not file or len(words) != parts or not all(words) or (matches and not pid):
            raise UsageError(f"{text!r} is not {form}")
        return cls(file, ":".join(words), pid)

    def path(self) -> Path:
        """Return the path of the file, as this process can open it."""
        return find_file(self.file, self.pid)


def find_file(word: str, pid: int = 0) -> Path:
    """Return the path of a program or library: a path, `bash`, `libc` or `libc.so.6`.

    A word without a slash is a library if it has `.so`; else a program of PATH, else a library. Of
    process *pid* all that is meant as that process sees it: its root directory, and the libraries
    that it has loaded.

    Raises:
        TargetNotFoundError: There is no such file, or no such process.
        PermissionDeniedError: The process is another user's.
    """
    root = _root_of(pid)
    if "/" in word:
        path = root / word.lstrip("/") if pid and word.startswith("/") else Path(word)
        if not path.is_file():
            raise TargetNotFoundError(f"there is no file {path}", hint=_near(path))
        return path
    is_library = bool(re.search(r"\.so(\.|$)", word))
    places = [_loaded_by(word, pid)] if pid else []
    places += [_library(word, root)] if is_library else [_program(word, root), _library(word, root)]
    for path in filter(None, places):
        return path
    what = "library" if is_library else "program or library"
    whose = f"process {pid} sees" if pid else "this host has"
    near = similar(word, {name for name, _ in _cached(root)})
    raise TargetNotFoundError(
        f"{whose} no {what} {word!r}",
        hint=f"near it: {', '.join(near)}" if near else "give its path",
    )


def _root_of(pid: int) -> Path:
    if not pid:
        return Path("/")
    root = Path(f"/proc/{pid}/root")
    try:
        os.stat(root)  # noqa: PTH116 - Path.exists() hides the reason
    except FileNotFoundError:
        raise TargetNotFoundError(f"there is no process {pid}") from None
    except PermissionError:
        raise PermissionDeniedError(
            f"process {pid} belongs to another user", missing=["CAP_SYS_PTRACE"], errno=0
        ) from None
    return root


def _near(path: Path) -> str:
    with suppress(OSError):
        near = similar(path.name, os.listdir(path.parent))  # noqa: PTH208 - names alone
        return f"near it: {', '.join(near)}" if near else ""
    return ""


def _program(word: str, root: Path) -> Path | None:
    folders = os.environ.get("PATH", _PROGRAMS).split(":")
    below = ":".join(str(root / folder.lstrip("/")) for folder in folders if folder)
    found = shutil.which(word, path=below)
    return Path(found) if found else None


def _is_called(word: str, name: str) -> bool:
    """Whether a library called *name* is meant: `c`-less `libc` is `libc.so.6`, too."""
    return name == word or name.startswith(f"{word}.so")


def _loaded_by(word: str, pid: int) -> Path | None:
    """Return the file that a process has mapped as the program or library *word*."""
    with suppress(OSError):
        # The lines of /proc/PID/maps end with the path, from column 6 on (proc(5)).
        for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
            addresses, *_, path = line.split(maxsplit=5)
            name = PurePath(path.removesuffix(_DELETED)).name
            if not path.startswith("/") or not _is_called(word, name):
                continue
            if path.endswith(_DELETED):
                # An update replaced it: the process still runs the old file, and so leads there.
                return Path(f"/proc/{pid}/map_files/{addresses}")
            return Path(f"/proc/{pid}/root") / path.lstrip("/")
    return None


def _library(word: str, root: Path) -> Path | None:
    """Return a library as ld.so(8) finds it: LD_LIBRARY_PATH, its cache, the default folders."""
    # In secure-execution mode the loader ignores the variable, and so do we.
    is_plain = os.getuid() == os.geteuid() and os.getgid() == os.getegid() and root == Path("/")
    variable = os.environ.get("LD_LIBRARY_PATH", "") if is_plain else ""
    for folder in filter(None, re.split("[:;]", variable)):
        if path := _in_folder(word, Path(folder)):
            return path
    for name, path in _cached(root):
        if _is_called(word, name) and path.is_file():
            return path
    for folder in _FOLDERS:
        if path := _in_folder(word, root / folder.lstrip("/")):
            return path
    return None


def _in_folder(word: str, folder: Path) -> Path | None:
    with suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if _is_called(word, name))  # noqa: PTH208
        return next((folder / name for name in names if (folder / name).is_file()), None)
    return None


def _cached(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the libraries of the loader's cache, by name and path, as far as it can be read."""
    data = b""
    with suppress(OSError):
        data = (root / _CACHE).read_bytes()
    # Behind the table of an older form, if it has one; offsets of names count from here.
    start = data.find(_CACHE_MAGIC)
    if start < 0 or len(data) < start + _CACHE_HEADER.size:
        return
    _, count, _ = _CACHE_HEADER.unpack_from(data, start)
    wanted = _CACHE_FLAGS.get(platform.machine())
    for number in range(count):
        at = start + _CACHE_HEADER.size + number * _CACHE_ENTRY.size
        if at + _CACHE_ENTRY.size > len(data):
            return
        flags, key, value, _, _ = _CACHE_ENTRY.unpack_from(data, at)
        if wanted in (None, flags):
            name, path = (os.fsdecode(_string(data, start + word)) for word in (key, value))
            yield name, root / path.lstrip("/")


def _string(data: bytes, at: int) -> bytes:
    end = data.find(b"\0", at)
    return data[at : max(end, at)]


# Functions of a file.


def function_offset(executable: Executable, text: str) -> int:
    """Return where a function is in the file: `NAME`, `NAME+OFF`, `NAME@VERSION`, or `0xOFF`.

    Raises:
        TargetNotFoundError: The file has no such function, or no code at that offset.
        UsageError: Several functions have the name.
        NotSupportedError: It is an IFUNC.
    """
    if _NUMBER.fullmatch(text):
        return require_code(executable, int(text, 0), text)
    name, plus, distance = text.rpartition("+")
    if not plus or not name or not _NUMBER.fullmatch(distance):
        name, distance = text, "0"
    symbol = _function(executable, name)
    offset = executable.file_offset(symbol.address)
    if offset is None:
        raise executable.error(f"function {name} is not in a segment with code")
    return require_code(executable, offset + int(distance, 0), text)


def require_code(executable: Executable, offset: int, text: str) -> int:
    """Return *offset*; `TargetNotFoundError` if no code is there, *text* was typed."""
    if executable.has_code_at(offset):
        return offset
    parts = ", ".join(
        f"{segment.offset:#x} to {segment.offset + segment.size:#x}"
        for segment in executable.segments
        if segment.is_executable
    )
    raise TargetNotFoundError(
        f"{executable.path} has no code at {text} (offset {offset:#x}): its code is from"
        f" {parts or 'nowhere'}"
    )


def _function(executable: Executable, text: str) -> FunctionSymbol:
    name, at, version = text.partition("@")
    version = version.lstrip("@")
    symbols = executable.symbols(name)
    if at:
        versions = [symbol for symbol in symbols if symbol.version == version]
        # A table for debugging has the version in the name itself.
        versions += [*executable.symbols(f"{name}@@{version}"), *executable.symbols(text)]
    else:
        versions = [symbol for symbol in symbols if symbol.is_default]
    if not versions:
        raise _no_function(executable, text, symbols)
    best = min(symbol.rank for symbol in versions)
    by_address = {symbol.address: symbol for symbol in versions if symbol.rank == best}
    if len(by_address) > 1:
        offsets = [executable.file_offset(address) for address in sorted(by_address)]
        raise UsageError(
            f"{executable.path} has {len(by_address)} functions {text!r}",
            hint="choose one by its offset: "
            + ", ".join(f"{offset:#x}" for offset in offsets if offset is not None),
        )
    (symbol,) = by_address.values()
    if symbol.is_indirect:
        raise NotSupportedError(
            f"{text} in {executable.path} is an IFUNC: the loader calls it once, to choose the"
            " function that runs",
            feature="IFUNC",
            hint="probe what it chooses, by name or offset"
            + _listed(
                [
                    each
                    for each in executable.names_like(name, count=_SUGGESTIONS + 1)
                    if each != name
                ]
            ),
        )
    return symbol


def _listed(names: list[str]) -> str:
    return f": {', '.join(names[:_SUGGESTIONS])}" if names else ""


def _no_function(
    executable: Executable, text: str, of_name: list[FunctionSymbol]
) -> TargetNotFoundError:
    if of_name:
        name = of_name[0].name
        versions = [f"{name}@{symbol.version}" for symbol in of_name if symbol.version]
        hint = f"its versions: {', '.join(dict.fromkeys(versions))}" if versions else ""
    elif not executable.has_symbols():
        hint = "the file is stripped: give an offset, FILE:0xOFF"
    else:
        near = similar(text, executable.names_near(text), count=_SUGGESTIONS)
        hint = f"near it: {', '.join(near)}" if near else ""
    return TargetNotFoundError(f"{executable.path} has no function {text!r}", hint=hint)


def function_offsets(executable: Executable, text: str) -> list[int]:
    """Return where all functions are that *text* names: a pattern with `*` and `?`, or one place.

    Raises what `function_offset` does.
    """
    if not re.search("[*?]", text):
        return [function_offset(executable, text)]
    form = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
    symbols = executable.functions(re.compile(form, re.DOTALL))
    # What an IFUNC runs is a function of its own.
    places = [executable.file_offset(it.address) for it in symbols if not it.is_indirect]
    offsets = sorted({place for place in places if place is not None})
    if offsets:
        return offsets
    stripped = "" if executable.has_symbols() else ": the file is stripped"
    raise TargetNotFoundError(f"no function of {executable.path} matches {text!r}{stripped}")
