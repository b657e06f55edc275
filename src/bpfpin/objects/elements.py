"""Elements of a map one at a time, as bytes, with buffers that are used again and again.

Making an attribute and its buffers takes longer than a small lookup. So a map keeps a pool of
them: whoever reads takes a `Slot` out and puts it back, other threads and signal handlers find
another one or make their own.
"""

from __future__ import annotations

import ctypes

from bpfpin.errors import BpfError, KeyNotFoundError
from bpfpin.syscall.attr import MapElemAttr
from bpfpin.syscall.call import Call
from bpfpin.uapi import Cmd, UpdateFlag

CLOSED_FD = 0xFFFFFFFF  # no descriptor: the kernel answers EBADF


class Slot:
    """Buffers for one key and one value, and the calls that work on them."""

    __slots__ = ("delete", "key", "key_address", "lookup", "next_key", "update", "value")

    def __init__(self, fd: int, key_size: int, value_size: int) -> None:
        self.key, self.key_address = buffer(key_size)
        # GET_NEXT_KEY writes a key into the value's buffer.
        self.value, value = buffer(max(value_size, key_size))
        key = self.key_address
        self.lookup = Call(Cmd.MAP_LOOKUP_ELEM, MapElemAttr(fd, key, value))
        self.update = Call(Cmd.MAP_UPDATE_ELEM, MapElemAttr(fd, key, value))
        self.delete = Call(Cmd.MAP_DELETE_ELEM, MapElemAttr(fd, key))
        self.next_key = Call(Cmd.MAP_GET_NEXT_KEY, MapElemAttr(fd, key, value))


def buffer(size: int) -> tuple[memoryview, int]:
    """Return *size* zero bytes that cannot be resized, and their address; 0 for none at all."""
    array = (ctypes.c_ubyte * size)()
    return memoryview(array).cast("B"), ctypes.addressof(array) if size else 0


class Elements:
    """The elements of the map *fd*; *value_size* is what the kernel copies, all CPUs together.

    *about* names the map in errors. `close` forgets the descriptor, whose number may be somebody
    else's soon.
    """

    def __init__(self, fd: int, key_size: int, value_size: int, *, about: str) -> None:
        self._fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self._about = about
        self._pool: list[Slot] = []

    def close(self) -> None:
        """Forget the descriptor; every call is refused from now on (EBADF)."""
        self._fd = CLOSED_FD
        self._pool.clear()

    def refused(self, call: Call, key: object) -> BpfError:
        """Return why *call* was refused, about *key* or (None) the map; `ValueError` if closed."""
        error = call.error(self._about if key is None else f"{self._about}, key {key!r}")
        if self._fd == CLOSED_FD:
            raise ValueError("the map is closed")
        return error

    def take(self) -> Slot:
        """Return a slot that nobody else has."""
        try:
            return self._pool.pop()
        except IndexError:
            return Slot(self._fd, self.key_size, self.value_size)

    def take_for(self, key: bytes) -> Slot:
        """Return a slot with *key* in it; `ValueError` if it has not the size of a key."""
        slot = self.take()
        try:
            slot.key[:] = key
        except ValueError:
            raise ValueError(f"a key of {len(key)} bytes, not {self.key_size}") from None
        return slot

    def put(self, slot: Slot) -> None:
        """Let others have the slot."""
        self._pool.append(slot)

    def lookup(self, key: bytes) -> bytes:
        """Return the value at *key*; `KeyNotFoundError`."""
        slot = self.take_for(key)
        if slot.lookup.enter() < 0:
            raise self.refused(slot.lookup, key)
        value = bytes(slot.value[: self.value_size])
        self._pool.append(slot)
        return value

    def has(self, key: bytes) -> bool:
        """Whether the map has *key*."""
        try:
            self.lookup(key)
        except KeyNotFoundError:
            return False
        return True

    def update(self, key: bytes, value: bytes, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Write *value* at *key*."""
        slot = self.take_for(key)
        if len(value) != self.value_size:
            raise ValueError(f"a value of {len(value)} bytes, not {self.value_size}")
        slot.value[: self.value_size] = value
        slot.update.attribute.flags = flag
        if slot.update.enter() < 0:
            raise self.refused(slot.update, key)
        self._pool.append(slot)

    def delete(self, key: bytes) -> None:
        """Remove *key*; `KeyNotFoundError`."""
        slot = self.take_for(key)
        if slot.delete.enter() < 0:
            raise self.refused(slot.delete, key)
        self._pool.append(slot)

    def next_key(self, key: bytes | None) -> bytes | None:
        """Return the key after *key*, None at the end; a key that is gone leads to the first."""
        slot = self.take()
        slot.next_key.attribute.key = slot.key_address if key is not None else 0
        if key is not None:
            slot.key[:] = key
        if slot.next_key.enter() < 0:
            error = self.refused(slot.next_key, key)
            if isinstance(error, KeyNotFoundError):
                return None
            raise error
        found = bytes(slot.value[: self.key_size])
        self._pool.append(slot)
        return found
