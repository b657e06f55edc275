"""The file that `map save` writes: a map's definition, its types, and its entries.

`docs/snapshot-format.md` describes it byte by byte. Nothing of a file is believed: lengths are
checked against the file's size before anything is read, and the checksum at the end counts.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from bpfpin.apps.maps.snapshot_definition import Definition
from bpfpin.errors import ObjectFileError, ObjectNotFoundError, PermissionDeniedError
from bpfpin.objects import layouts
from bpfpin.pins.record import TEXT_SIZE_MAX
from bpfpin.syscall.fd import Closing

MAGIC: Final = b"bpfpin-snapshot\n"
VERSION: Final = 1
START: Final = struct.Struct(f"<{len(MAGIC)}sIII")  # magic, version, bytes of definition and types
COUNT: Final = struct.Struct("<I")
TOTAL: Final = struct.Struct("<Q")
TYPES_BYTES_MAX: Final = 16 << 20

Block = tuple[memoryview, memoryview]
"""The keys of some entries and their values, each back to back."""


class SnapshotWriter:
    """Writes one snapshot into *file*, in the order of the methods."""

    def __init__(self, file: IO[bytes], definition: Definition, types: bytes) -> None:
        self._file = file
        self._definition = definition
        self._hash = hashlib.sha256()
        self.entries = 0
        text = definition.to_text().encode()
        self._write(START.pack(MAGIC, VERSION, len(text), len(types)), text, types)

    def add(self, keys: memoryview, values: memoryview) -> None:
        """Write some entries, their keys and their values back to back."""
        key_size, copied = self._definition.key_size, self._definition.copied
        count, step = len(keys) // key_size, self._definition.block_entries
        for start in range(0, count, step):
            end = min(start + step, count)
            self._write(
                COUNT.pack(end - start),
                keys[start * key_size : end * key_size],
                values[start * copied : end * copied],
            )
        self.entries += count

    def end(self) -> None:
        """Write what tells that the file is whole."""
        self._write(COUNT.pack(0), TOTAL.pack(self.entries))
        self._file.write(self._hash.digest())

    def _write(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self._hash.update(part)
            self._file.write(part)


class SnapshotReader(Closing):
    """A snapshot, opened; `ObjectFileError` tells what is wrong with it and where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
        try:
            status = os.fstat(self._file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ObjectFileError("it is no regular file", path=str(path))
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
        """Yield all entries; the file is known to be whole when this ends, and not before.

        From the start again each time.
        """
        key_size, copied = self.definition.key_size, self.definition.copied
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self._read(self._entries_at, "the definition")
        total = 0
        while count := COUNT.unpack(self._read(COUNT.size, "a block"))[0]:
            if count > self.definition.block_entries:
                raise self._error(f"a block of {count} entries, which is too large")
            block = memoryview(self._read(count * (key_size + copied), f"{count} entries"))
            keys, values = block[: count * key_size], block[count * key_size :]
            if fault := self.definition.key_fault(keys, total):
                raise self._error(fault)
            total += count
            yield keys, values
        self._read_end(total)

    def _read_end(self, total: int) -> None:
        (said,) = TOTAL.unpack(self._read(TOTAL.size, "the number of entries"))
        digest = self._hash.digest()
        there = self._read(len(digest), "the checksum")
        if said != total:
            raise self._error(f"{total} entries, where it says {said}")
        if there != digest:
            raise self._error("the checksum is another one: the file is damaged")
        if self._file.tell() != self._size:
            raise self._error("something stands behind the end")

    def _read_start(self) -> None:
        magic, version, text_size, types_size = START.unpack(self._read(START.size, "the start"))
        if magic != MAGIC:
            raise self._error("it is no snapshot of a map")
        if version != VERSION:
            raise self._error(f"it is of version {version}, and this bpfpin reads {VERSION}")
        if text_size > TEXT_SIZE_MAX or types_size > TYPES_BYTES_MAX:
            raise self._error("its definition is too large")
        try:
            self.definition = Definition.parse(self._read(text_size, "the definition").decode())
        except ValueError as error:
            raise self._error(f"its definition cannot be read: {error}") from None
        self.types = self._types(self._read(types_size, "the types"))
        self._entries_at = self._file.tell()

    def _types(self, blob: bytes) -> layouts.Types:
        try:
            found = layouts.decode(blob)
            sizes = (self.definition.key_size, self.definition.value_size)
            fits = [ref is None or ref.size == size for ref, size in zip(found, sizes, strict=True)]
        except ObjectFileError as error:
            raise self._error(f"its types cannot be read: {error}") from None
        if not all(fits):
            raise self._error("its types do not have the sizes of its keys and values")
        return found

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
    """Open a file; a named pipe, too, at which one would wait for a writer."""
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
