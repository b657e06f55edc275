"""Reads and writes the file of `map save`: a map's definition, its types, and its entries.

`docs/snapshot-format.md` describes it byte by byte. The file is untrusted: lengths are checked
against its size before anything is read, and the checksum at the end must fit.

A file is written so that it exists as a whole or not at all, and so that no other user can misguide
the writer. Root writes into /tmp, too, where others can make names: their symbolic links must not
decide which file is overwritten. So the path is walked first, its directory is opened once, and the
file is created beside its final name (O_EXCL) and renamed, all relative to that descriptor.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final, Self, TypeVar

from bpfpin.errors import (
    ObjectFileError,
    ObjectNotFoundError,
    PermissionDeniedError,
    UnsafePathError,
    UsageError,
)
from bpfpin.map_traits import stride_of, traits_of
from bpfpin.objects.maps import layouts
from bpfpin.pins.manifest import TEXT_SIZE_MAX, JsonObject
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.uapi import MapType

BLOCK_BYTES: Final = 4 << 20  # of one block, which has at least one entry
# Limits for the numbers in a file that nobody vouches for. The kernel refuses larger values too
# (INT_MAX, array_map_alloc_check() in kernel/bpf/arraymap.c).
KEY_SIZE_MAX: Final = 1 << 16
VALUE_SIZE_MAX: Final = 1 << 31
CPUS_MAX: Final = 1 << 16
_INDEX_SIZE: Final = 4  # of an array's index, and of the length of a prefix
MAGIC: Final = b"bpfpin-snapshot\n"
VERSION: Final = 1
START: Final = struct.Struct(f"<{len(MAGIC)}sIII")  # magic, version, bytes of definition and types
COUNT: Final = struct.Struct("<I")
TOTAL: Final = struct.Struct("<Q")
TYPES_BYTES_MAX: Final = 16 << 20
# Pins have this mode too (0600): a copy of a map must not show more people what it holds.
PRIVATE: Final = 0o600
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LINKS_MAX: Final = 40  # MAXSYMLINKS in include/linux/namei.h
_STREAMS: Final = (stat.S_ISCHR, stat.S_ISFIFO, stat.S_ISSOCK)
# The keys of some entries and their values, each back to back.
Block = tuple[memoryview, memoryview]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SavedDefinition:
    """The definition of a saved map; *cpus* is the number of values per entry, 1 if not per CPU."""

    name: str
    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    map_extra: int
    cpus: int

    @property
    def value_bytes(self) -> int:
        """The size of all values of one entry, in bytes."""
        is_percpu = traits_of(self.type).is_percpu
        return stride_of(self.value_size) * self.cpus if is_percpu else self.value_size

    def key_fault(self, keys: memoryview, before: int) -> str:
        """Return why *keys*, which follow *before* others, are not valid; "" if they are.

        The kernel would refuse them only after others have been written.
        """
        if traits_of(self.type).is_array and keys.cast("I").tolist() != list(
            range(before, before + len(keys) // self.key_size)
        ):
            return "the indexes of the array do not follow each other"
        if not traits_of(self.type).is_trie:
            return ""
        bits = 8 * (self.key_size - _INDEX_SIZE)
        # struct bpf_lpm_trie_key begins with a u32 of bits; trie_update_elem() in
        # kernel/bpf/lpm_trie.c refuses more than the key has (EINVAL).
        prefixes = (
            int.from_bytes(keys[at : at + _INDEX_SIZE], "little")
            for at in range(0, len(keys), self.key_size)
        )
        return f"a prefix is longer than {bits} bits" if max(prefixes, default=0) > bits else ""

    @property
    def block_entries(self) -> int:
        """The largest number of entries in one block."""
        return max(1, BLOCK_BYTES // (self.key_size + self.value_bytes))

    def to_text(self) -> str:
        """Return the definition as JSON."""
        return json.dumps({**asdict(self), "type": int(self.type)}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the definition in *text*; `ValueError` says why it is not one."""
        record = JsonObject.load(text)
        limits = {
            "key_size": KEY_SIZE_MAX,
            "value_size": VALUE_SIZE_MAX,
            "max_entries": (1 << 32) - 1,
            "map_flags": (1 << 32) - 1,
            "map_extra": (1 << 64) - 1,
            "cpus": CPUS_MAX,
        }
        numbers = {name: record.number(name, limit=limit) for name, limit in limits.items()}
        if not (numbers["key_size"] and numbers["value_size"] and numbers["cpus"]):
            raise ValueError("a size is 0")
        kind = MapType(record.number("type"))
        if traits_of(kind).is_array and numbers["key_size"] != _INDEX_SIZE:
            raise ValueError(f"the index of an array has {_INDEX_SIZE} bytes")
        return cls(record.text("name"), kind, **numbers)


class SnapshotWriter:
    """Writes one snapshot into *file*, in the order of the methods."""

    def __init__(self, file: IO[bytes], definition: SavedDefinition, types: bytes) -> None:
        self._file = file
        self._definition = definition
        self._hash = hashlib.sha256()
        self.entries = 0
        text = definition.to_text().encode()
        self._write(START.pack(MAGIC, VERSION, len(text), len(types)), text, types)

    def add(self, keys: memoryview, values: memoryview) -> None:
        """Write some entries, their keys and their values back to back."""
        key_size, value_bytes = self._definition.key_size, self._definition.value_bytes
        count, step = len(keys) // key_size, self._definition.block_entries
        for start in range(0, count, step):
            end = min(start + step, count)
            self._write(
                COUNT.pack(end - start),
                keys[start * key_size : end * key_size],
                values[start * value_bytes : end * value_bytes],
            )
        self.entries += count

    def end(self) -> None:
        """Write the end marker, the number of entries and the checksum."""
        self._write(COUNT.pack(0), TOTAL.pack(self.entries))
        self._file.write(self._hash.digest())

    def _write(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self._hash.update(part)
            self._file.write(part)


class SnapshotReader(Closing):
    """An open snapshot; `ObjectFileError` describes a fault of the file, with its offset."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
        try:
            # Of the open file: another one may be at the path by now.
            status = os.fstat(self._file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ObjectFileError("it is not a regular file", path=str(path))
            self._size = status.st_size
            self._hash = hashlib.sha256()
            self._read_start()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def blocks(self) -> Iterator[Block]:
        """Yield all entries, from the start of the file each time.

        The checksum is compared at the end: until then the file may be damaged.
        """
        key_size, value_bytes = self.definition.key_size, self.definition.value_bytes
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self._read(self._entries_at, "the definition")
        total = 0
        while count := COUNT.unpack(self._read(COUNT.size, "a block"))[0]:
            # The writer keeps this limit, so that a block always fits into memory.
            if count > self.definition.block_entries:
                raise self._error(f"a block of {count} entries, which is too large")
            block = memoryview(self._read(count * (key_size + value_bytes), f"{count} entries"))
            keys, values = block[: count * key_size], block[count * key_size :]
            if fault := self.definition.key_fault(keys, total):
                raise self._error(fault)
            total += count
            yield keys, values
        self._read_end(total)

    def _read_end(self, total: int) -> None:
        (written,) = TOTAL.unpack(self._read(TOTAL.size, "the number of entries"))
        # Before the checksum is read: `_read` adds all that it reads.
        computed = self._hash.digest()
        checksum = self._read(len(computed), "the checksum")
        if written != total:
            raise self._error(f"{total} entries, where it says {written}")
        if checksum != computed:
            raise self._error("the checksum does not match: the file is damaged")
        if self._file.tell() != self._size:
            raise self._error("the file goes on after its end")

    def _read_start(self) -> None:
        magic, version, text_size, types_size = START.unpack(self._read(START.size, "the start"))
        if magic != MAGIC:
            raise self._error("it is not a snapshot of a map")
        if version != VERSION:
            raise self._error(f"it is of version {version}, and this bpfpin reads {VERSION}")
        if text_size > TEXT_SIZE_MAX or types_size > TYPES_BYTES_MAX:
            raise self._error("its definition is too large")
        try:
            self.definition = SavedDefinition.parse(
                self._read(text_size, "the definition").decode()
            )
        except ValueError as error:
            raise self._error(f"its definition cannot be read: {error}") from None
        self.types = self._types(self._read(types_size, "the types"))
        self._entries_at = self._file.tell()

    def _types(self, blob: bytes) -> layouts.Types:
        try:
            types = layouts.decode(blob)
            sizes = (self.definition.key_size, self.definition.value_size)
            fits = [ref is None or ref.size == size for ref, size in zip(types, sizes, strict=True)]
        except ObjectFileError as error:
            raise self._error(f"its types cannot be read: {error}") from None
        if not all(fits):
            raise self._error("its types do not have the sizes of its keys and values")
        return types

    def _read(self, size: int, what: str) -> bytes:
        at = self._file.tell()
        data = self._file.read(size) if at + size <= self._size else b""
        if len(data) != size:
            raise self._error(f"it ends within {what}: {size} bytes, {self._size - at} are left")
        self._hash.update(data)
        return data

    def _error(self, text: str) -> ObjectFileError:
        return ObjectFileError(text, path=str(self.path), offset=self._file.tell())


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, without waiting for a writer if it is a named pipe."""
    # Only the type of the file matters then: SnapshotReader refuses a pipe.
    return os.open(path, flags | os.O_NONBLOCK)


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb", opener=_without_waiting)
    except FileNotFoundError:
        raise ObjectNotFoundError("no such file", path=str(path)) from None
    except IsADirectoryError:
        raise ObjectFileError("it is a directory", path=str(path)) from None
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{path} cannot be read", command="open", errno=error.errno or 0, target=str(path)
        ) from None


@contextmanager
def new_file(path: Path, *, mode: int = PRIVATE) -> Iterator[IO[bytes]]:
    """Yield a new file that is renamed to *path* at the end of `with`; an error leaves no file.

    It is created beside *path*, made durable (fsync) and renamed, also over an existing file. Its
    mode is *mode* less the umask.

    Raises `UsageError` if *path* exists and is not a regular file, `ObjectNotFoundError` if its
    directory does not exist, `UnsafePathError` for a symbolic link of another user or in a
    directory that others may write, and the error of the kernel if writing fails.
    """
    whole = resolved(path.absolute().parent) / path.name
    _require_replaceable(whole)
    with _directory(whole.parent) as directory:
        # A name has at most 255 bytes (NAME_MAX), and this one is longer by 14.
        name = f".{os.fsdecode(os.fsencode(whole.name)[:200])}.{secrets.token_hex(6)}"
        fd = _do(
            path,
            lambda: os.open(
                name,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                mode,
                dir_fd=directory.fileno(),
            ),
        )
        try:
            with os.fdopen(fd, "w+b") as file:
                yield file
                file.flush()
                # Before the rename: else a power failure could leave an empty file in its place.
                os.fsync(file.fileno())
            at = {"src_dir_fd": directory.fileno(), "dst_dir_fd": directory.fileno()}
            _do(path, lambda: os.rename(name, whole.name, **at))  # noqa: PTH104  (by descriptor)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory.fileno())
            raise
        # rename(2) is durable only once the directory is on disk as well.
        os.fsync(directory.fileno())


def write_text(path: Path, text: str) -> None:
    """Write *text* to a new file by `new_file`, or to a terminal, a pipe or /dev/null."""
    if _is_stream(path):
        # Appended: /dev/stdout may be a file with earlier output, which must not be cut off.
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
        return
    with new_file(resolved(path), mode=0o666) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def resolved(path: Path) -> Path:
    """Return *path* without symbolic links; `UnsafePathError` for a link that others control.

    That is a link of another user anywhere, and a link in a directory that others may write,
    unless the directory is sticky and the link belongs to this user or root: the rule of the
    sysctl fs.protected_symlinks (may_follow_link() in fs/namei.c), always applied.
    """
    whole, left = Path("/"), list(path.absolute().parts[1:])
    for _ in range(_LINKS_MAX):
        while left:
            part = left.pop(0)
            if part == "..":
                whole = whole.parent
                continue
            whole /= part
            try:
                status = whole.lstat()
            except OSError:
                return whole.joinpath(*left)  # the caller gets the error when it opens the path
            if stat.S_ISLNK(status.st_mode):
                break
        else:
            return whole
        _require_safe_link(whole, status)
        target = Path(os.readlink(whole))  # noqa: PTH115
        left = [*(target.parts[1:] if target.is_absolute() else target.parts), *left]
        whole = Path("/") if target.is_absolute() else whole.parent
    raise UnsafePathError(f"{path}: more than {_LINKS_MAX} symbolic links", path=str(path))


def _require_safe_link(link: Path, status: os.stat_result) -> None:
    directory = link.parent.stat()
    is_ours = status.st_uid in (0, os.geteuid())
    is_open = bool(directory.st_mode & _OTHERS_WRITE)
    if is_ours and (not is_open or directory.st_mode & stat.S_ISVTX):
        return
    why = f"it belongs to uid {status.st_uid}" if not is_ours else f"others may write {link.parent}"
    raise UnsafePathError(
        f"{link} is a symbolic link that is not followed: {why}",
        path=str(link),
        hint="name the file itself, or one in a directory that only you may write",
    )


def _is_stream(path: Path) -> bool:
    """Whether *path* is a device, a pipe or a socket: it is written to, and never replaced."""
    name = path.absolute()
    if name.parent in (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")):
        with suppress(OSError):  # /dev/stdout, >(…) of a shell: links of this process alone
            # Writing to a block device would overwrite a file system.
            return not stat.S_ISBLK(name.stat().st_mode)
    with suppress(OSError):
        status = resolved(path).lstat()
        return status.st_uid in (0, os.geteuid()) and any(kind(status.st_mode) for kind in _STREAMS)
    return False


def _require_replaceable(path: Path) -> None:
    """Raise an error for a path that a rename would destroy, such as a device."""
    if not path.parent.is_dir():
        raise ObjectNotFoundError("no such directory", path=str(path.parent))
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} exists and is not a regular file", hint="give another name")


def _directory(path: Path) -> Descriptor:
    # *path* has no links left (`resolved`): O_NOFOLLOW refuses one that was made since.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return Descriptor(_do(path, lambda: os.open(path, flags)))


def _do(path: Path, call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise syscall_error("open", error.errno or 0, target=str(path)) from None
