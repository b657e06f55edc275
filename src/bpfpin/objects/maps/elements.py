"""Elements of a map one at a time, as bytes, with buffers that are used again and again.

Making an attribute and its buffers takes longer than a small lookup. So a map keeps a pool of
them: whoever reads takes a `Slot` out and puts it back, other threads and signal handlers find
another one or make their own. Every buffer is as long as what the kernel copies: the sizes it
reports, and of a per-CPU value one for each possible CPU.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from bpfpin.errors import KeyNotFoundError, ReadOnlyMapError
from bpfpin.objects.kernel.info import fdinfo
from bpfpin.objects.maps import explain
from bpfpin.syscall.attr import MapElemAttr
from bpfpin.syscall.call import Call
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import Cmd, MapType

CLOSED_FD = 0xFFFFFFFF  # no descriptor: the kernel answers EBADF


class Letters(NamedTuple):
    """How keys and values that are plain numbers are cast (`memoryview.cast`)."""

    key: Any  # mypy knows the letters of a cast only as literals
    value: Any


class Slot:
    """Buffers for one key and one value, and the calls that work on them."""

    __slots__ = (
        "delete",
        "key",
        "key_address",
        "key_number",
        "lookup",
        "next_key",
        "take",
        "update",
        "value",
        "value_number",
    )

    def __init__(self, fd: int, key_size: int, value_size: int, letters: Letters | None) -> None:
        self.key, self.key_address = buffer(key_size)
        # GET_NEXT_KEY writes a key into the value's buffer.
        self.value, value = buffer(max(value_size, key_size))
        key = self.key_address
        self.lookup = Call(Cmd.MAP_LOOKUP_ELEM, MapElemAttr(fd, key, value))
        self.take = Call(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, MapElemAttr(fd, key, value))
        self.update = Call(Cmd.MAP_UPDATE_ELEM, MapElemAttr(fd, key, value))
        self.delete = Call(Cmd.MAP_DELETE_ELEM, MapElemAttr(fd, key))
        self.next_key = Call(Cmd.MAP_GET_NEXT_KEY, MapElemAttr(fd, key, value))
        if letters is not None:
            self.key_number = self.key.cast(letters.key)
            self.value_number = self.value[:value_size].cast(letters.value)


class Closed(list[Any]):
    """The pool of a closed map: what comes back late holds a number that is no longer ours."""

    def append(self, _late: object) -> None:
        """Drop it."""


def buffer(size: int) -> tuple[memoryview, int]:
    """Return *size* zero bytes that cannot be resized, and their address; 0 for none at all."""
    if not size:
        return memoryview(bytearray()), 0
    array = (ctypes.c_ubyte * size)()
    return memoryview(array).cast("B"), ctypes.addressof(array)


class Elements(Closing):
    """The elements of the map *fd*; *value_size* is what the kernel copies, all CPUs together.

    *about* names the map in errors, for which *map_type* and *max_entries* may be the
    reason. `close` forgets the descriptor, whose number may be somebody else's soon.
    """

    def __init__(
        self,
        fd: int,
        key_size: int,
        value_size: int,
        *,
        about: str,
        map_type: MapType | int = 0,
        max_entries: int = 0,
    ) -> None:
        self._fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self._about = about
        self._map_type = map_type
        self._max_entries = max_entries
        self._letters: Letters | None = None
        self._pool: list[Slot] = []

    def are_numbers(self, letters: Letters) -> None:
        """Prepare for `lookup_number`; both letters stand for as many bytes as there are."""
        self._letters = letters
        self._pool.clear()

    def close(self) -> None:
        """Forget the descriptor; every call is refused from now on (EBADF)."""
        self._fd = CLOSED_FD
        self._pool = Closed()

    def refused(
        self, call: Call, key: object, *, slot: Slot | None = None, raw_key: bytes = b""
    ) -> Exception:
        """Return why *call* was refused, about *key* or (None) the map; `ValueError` if closed.

        `TypeError` if the kernel has no such call for this type of map (`map_traits.py`).
        *slot* has the bytes that were asked with, or *raw_key* those of the key alone.
        """
        error = call.error(self._about if key is None else f"{self._about}, key {key!r}")
        if self._fd == CLOSED_FD:
            raise ValueError("the map is closed")
        if isinstance(error, ReadOnlyMapError):
            error.message = f"{error.target}: {self._why_read_only()}"
        asked = explain.Asked(
            call.command,
            self._max_entries,
            bytes(slot.key) if slot else raw_key,
            bytes(slot.value[: self.value_size]) if slot else b"",
            call.attribute.flags if slot else 0,
        )
        return explain.explained(error, self._map_type, asked, about=self._about)

    def _why_read_only(self) -> str:
        if fdinfo(self._fd).get("frozen") == "1":
            return "the map is frozen, nobody writes it through the kernel's calls any more"
        return "the map was opened for reading only"

    def take(self) -> Slot:
        """Return a slot that nobody else has."""
        try:
            return self._pool.pop()
        except IndexError:
            return Slot(self._fd, self.key_size, self.value_size, self._letters)

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

    def lookup(self, key: bytes, *, flags: int = 0, named: object = None) -> bytes:
        """Return the value at *key*, called *named* in errors; `KeyNotFoundError`."""
        slot = self.take_for(key)
        return self._read(slot, slot.lookup, key if named is None else named, flags)

    def lookup_and_delete(self, key: bytes, *, flags: int = 0, named: object = None) -> bytes:
        """Return the value at *key* and remove it in one step; `KeyNotFoundError`."""
        slot = self.take_for(key)
        return self._read(slot, slot.take, key if named is None else named, flags)

    def _read(self, slot: Slot, call: Call, named: object, flags: int) -> bytes:
        call.attribute.flags = flags
        if call.enter() < 0:
            raise self.refused(call, named, slot=slot)
        call.attribute.flags = 0
        value = bytes(slot.value[: self.value_size])
        self._pool.append(slot)
        return value

    def lookup_number(self, key: Any) -> Any:
        """Return the number at the number *key*, without a copy of either (`are_numbers`).

        `TypeError` or `ValueError`, which say little, if *key* does not fit.
        """
        slot = self.take()
        slot.key_number[0] = key
        if slot.lookup.enter() < 0:
            raise self.refused(slot.lookup, key, slot=slot)
        value = slot.value_number[0]
        self._pool.append(slot)
        return value

    def has(self, key: bytes) -> bool:
        """Whether the map has *key*."""
        try:
            self.lookup(key)
        except KeyNotFoundError:
            return False
        return True

    def update(self, key: bytes, value: bytes, flags: int = 0, *, named: object = None) -> None:
        """Write *value* at *key*, called *named* in errors; *flags* are of `UpdateFlag`."""
        if len(value) != self.value_size:
            raise ValueError(f"a value of {len(value)} bytes, not {self.value_size}")
        self.update_part(key, value, flags, named=named)

    def update_part(self, key: bytes, part: bytes, flags: int, *, named: object = None) -> None:
        """Write what may be less than a whole value, for the flags that say so."""
        slot = self.take_for(key)
        slot.value[: len(part)] = part
        slot.update.attribute.flags = flags
        if slot.update.enter() < 0:
            raise self.refused(slot.update, key if named is None else named, slot=slot)
        self._pool.append(slot)

    def delete(self, key: bytes, *, named: object = None) -> None:
        """Remove *key*; `KeyNotFoundError`."""
        slot = self.take_for(key)
        if slot.delete.enter() < 0:
            raise self.refused(slot.delete, key if named is None else named, slot=slot)
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
