"""Single elements of a map, as bytes, with buffers that are reused.

Creating an attribute and its buffers takes longer than a small lookup, so each map keeps a pool of
them. A caller takes a `Slot` out of the pool and puts it back; other threads and signal handlers
take another one or create their own. Every buffer has the size that the kernel copies: that of the
map, and for a per-CPU value once for each possible CPU.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Any, NamedTuple

from bpfpin.errors import KeyNotFoundError, ReadOnlyMapError
from bpfpin.objects.kernel.info import fdinfo
from bpfpin.syscall.attr import MapElemAttr
from bpfpin.syscall.call import Call
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import Cmd, MapType

CLOSED_FD = 0xFFFFFFFF  # not a descriptor: the kernel answers EBADF


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
        # The calls share the buffers, so a slot serves one caller at a time.
        self.lookup = Call(Cmd.MAP_LOOKUP_ELEM, MapElemAttr(fd, key, value))
        self.take = Call(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, MapElemAttr(fd, key, value))
        self.update = Call(Cmd.MAP_UPDATE_ELEM, MapElemAttr(fd, key, value))
        self.delete = Call(Cmd.MAP_DELETE_ELEM, MapElemAttr(fd, key))
        self.next_key = Call(Cmd.MAP_GET_NEXT_KEY, MapElemAttr(fd, key, value))
        if letters is not None:
            self.key_number = self.key.cast(letters.key)
            self.value_number = self.value[:value_size].cast(letters.value)


class Closed(list[Any]):
    """The pool of a closed map; a slot that is put back late has a stale descriptor number."""

    def append(self, _late: object) -> None:
        """Drop the slot."""


def buffer(size: int) -> tuple[memoryview, int]:
    """Return *size* zero bytes that cannot be resized, and their address (0 if there are none)."""
    # Address 0 for no bytes: of a map without keys the kernel refuses any other (__bpf_copy_key()
    # of kernel/bpf/syscall.c, EINVAL).
    if not size:
        return memoryview(bytearray()), 0
    array = (ctypes.c_ubyte * size)()
    return memoryview(array).cast("B"), ctypes.addressof(array)


class Elements(Closing):
    """The elements of the map *fd*; *value_size* is that of all CPUs together.

    *about* names the map in errors, for which *map_type* and *max_entries* may be the
    reason. `close` forgets *fd*, whose number may be reused; all that read and write elements take
    it from here for each call.
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
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self._about = about
        self.map_type = map_type
        self.max_entries = max_entries
        self._letters: Letters | None = None
        self._pool: list[Slot] = []

    def are_numbers(self, letters: Letters) -> None:
        """Prepare for `lookup_number`; the letters have the sizes of key and value."""
        self._letters = letters
        self._pool.clear()

    def close(self) -> None:
        """Forget the descriptor; the kernel refuses every later call (EBADF)."""
        self.fd = CLOSED_FD
        self._pool = Closed()

    def refused(
        self, call: Call, key: object, *, slot: Slot | None = None, raw_key: bytes = b""
    ) -> Exception:
        """Return the error of *call*, about *key* or (None) the map; `ValueError` if it is closed.

        `TypeError` if the kernel has no such call for this type of map (`map_traits.py`).
        *slot* has the bytes of the call, or *raw_key* those of the key alone.
        """
        from bpfpin.objects.maps import explain  # noqa: PLC0415  (only for a refused call)

        error = call.error(self._about if key is None else f"{self._about}, key {key!r}")
        # EBADF alone does not tell a closed map from a wrong descriptor.
        if self.fd == CLOSED_FD:
            raise ValueError("the map is closed")
        if isinstance(error, ReadOnlyMapError):
            error.message = f"{error.target}: {self._why_read_only()}"
        refused = explain.RefusedCall(
            call.command,
            self.max_entries,
            bytes(slot.key) if slot else raw_key,
            bytes(slot.value[: self.value_size]) if slot else b"",
            call.attribute.flags if slot else 0,
        )
        return explain.explained(error, self.map_type, refused, about=self._about)

    def _why_read_only(self) -> str:
        if fdinfo(self.fd).get("frozen") == "1":
            return "the map is frozen: user space can no longer write it"
        return "the map was opened for reading only"

    def take(self) -> Slot:
        """Take a slot out of the pool, or create one."""
        try:
            # No lock: pop() and append() of a list are atomic in CPython.
            return self._pool.pop()
        except IndexError:
            return Slot(self.fd, self.key_size, self.value_size, self._letters)

    def take_for(self, key: bytes) -> Slot:
        """Take a slot and write *key* into it; `ValueError` if the key has another size."""
        slot = self.take()
        try:
            # A memoryview keeps its size: a key of another length raises. A bytearray would move,
            # and leave the kernel the address of freed memory.
            slot.key[:] = key
        except ValueError:
            raise ValueError(f"a key of {len(key)} bytes, not {self.key_size}") from None
        return slot

    def put(self, slot: Slot) -> None:
        """Return the slot to the pool."""
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
        # A refused slot is not put back: its attribute has flags that other calls rely on being 0.
        if call.enter() < 0:
            raise self.refused(call, named, slot=slot)
        call.attribute.flags = 0
        value = bytes(slot.value[: self.value_size])
        self._pool.append(slot)
        return value

    def lookup_number(self, key: Any) -> Any:
        """Return the number at the number *key*, without a copy of either (`are_numbers`).

        `TypeError` or `ValueError` with a vague message if *key* does not fit.
        """
        slot = self.take()
        slot.key_number[0] = key
        if slot.lookup.enter() < 0:
            raise self.refused(slot.lookup, key, slot=slot)
        value = slot.value_number[0]
        self._pool.append(slot)
        return value

    def has(self, key: bytes) -> bool:
        """Return whether the map has *key*."""
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
        """Write a value, or with BPF_F_CPU among the flags one CPU's part of it."""
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
        """Return the key after *key*, None at the end; after a deleted key the first one."""
        slot = self.take()
        # Linux commit 8fe45924387b ("bpf: map_get_next_key to return first key on NULL") (v4.12)
        slot.next_key.attribute.key = slot.key_address if key is not None else 0
        if key is not None:
            slot.key[:] = key
        if slot.next_key.enter() < 0:
            if slot.next_key.errno != errno.ENOENT:
                raise self.refused(slot.next_key, key)
            self._pool.append(slot)
            return None
        following = bytes(slot.value[: self.key_size])
        self._pool.append(slot)
        return following
