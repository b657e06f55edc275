"""Elements that the kernel takes as a descriptor: the owner of a local storage, a socket, a cgroup.

| map | owner |
|---|---|
| socket storage, socket map | a socket |
| task storage | the process id of a process, or an object on its pidfd |
| inode storage | an open file, or its path |
| cgroup storage (CGRP_STORAGE), cgroup array | the path of the cgroup, or an object open on it |

All but the task storage take the number of an open descriptor too, and everything its bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bpfpin.codecs.codec import Buffer, Codec, MisfitError
from bpfpin.uapi import MapType

WORD = 4


class HeldBytes(bytes):
    """Bytes with the numbers of descriptors, which stay open for as long as the bytes are there."""

    _opened: int | None = None
    _parts: Sequence[bytes] = ()

    @classmethod
    def opened(cls, fd: int, size: int) -> HeldBytes:
        """Return the bytes of *fd*, which belongs to them from now on."""
        made = cls(fd.to_bytes(size, "little"))
        made._opened = fd
        return made

    @classmethod
    def joined(cls, parts: Sequence[bytes]) -> HeldBytes:
        """Return all *parts* back to back; they live on with the whole."""
        made = cls(b"".join(parts))
        made._parts = parts
        return made

    def __del__(self) -> None:
        if self._opened is not None:
            os.close(self._opened)


@dataclass(frozen=True)
class Owner:
    """A kind of owner: what it is called, and how those that are not open yet are opened."""

    noun: str
    openers: tuple[tuple[type, Callable[[Any], int]], ...] = ()


def _open_path(path: str | os.PathLike[str]) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise MisfitError(ValueError, f"{os.fspath(path)}: {error.strerror}") from None


def _open_process(process_id: int) -> int:
    try:
        return os.pidfd_open(process_id)
    except OSError as error:
        raise MisfitError(ValueError, f"process {process_id}: {error.strerror}") from None


PATHS = ((str, _open_path), (os.PathLike, _open_path))
CGROUP = Owner("a cgroup, its path or its descriptor", PATHS)
FILE = Owner("an open file, its path or its descriptor", PATHS)
PROCESS = Owner("the id of a process", ((int, _open_process),))
SOCKET = Owner("a socket or its descriptor")
EVENT = Owner("a perf event or its descriptor")

# The keys of local storages.
OWNERS: dict[MapType | int, Owner] = {
    MapType.SK_STORAGE: SOCKET,
    MapType.INODE_STORAGE: FILE,
    MapType.TASK_STORAGE: PROCESS,
    MapType.CGRP_STORAGE: CGROUP,
}


class OwnerCodec(Codec):
    """An element that is a descriptor; what `encode` opens stays open as long as its bytes."""

    def __init__(self, owner: Owner, *, size: int = WORD) -> None:
        self.size = size
        self._owner = owner

    def decode(self, data: Buffer, at: int = 0) -> int:
        """Return the number that the kernel tells instead, such as a socket's cookie."""
        return int.from_bytes(data[at : at + self.size], "little")

    def encode(self, value: Any) -> bytes:
        """Return the bytes of the descriptor; `ValueError` or `TypeError` if it is none."""
        opener = self._opener(value)
        if opener is None:
            return super().encode(value)
        try:
            return HeldBytes.opened(opener(value), self.size)
        except MisfitError as misfit:
            raise misfit.final() from None

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all descriptors."""
        return HeldBytes.joined([self.encode(value) for value in values])

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take what is open already: something with a `fileno`, its number or the bytes of it."""
        if isinstance(value, bytes) and len(value) == self.size:
            data[at : at + self.size] = value
            return
        is_open = hasattr(value, "fileno")
        fd = value.fileno() if is_open else value
        if not isinstance(fd, int) or (not is_open and self._opener(fd)):
            raise MisfitError(TypeError, f"{self._owner.noun} was expected, not {value!r}")
        if not 0 <= fd < 1 << 31:
            raise MisfitError(ValueError, f"{fd} is no descriptor")
        data[at : at + self.size] = fd.to_bytes(self.size, "little")

    def _opener(self, value: Any) -> Callable[[Any], int] | None:
        kinds = self._owner.openers
        return next((opener for kind, opener in kinds if isinstance(value, kind)), None)
