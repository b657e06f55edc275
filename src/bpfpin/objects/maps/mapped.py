"""An array whose elements are read and written without a system call."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Self

from bpfpin.codecs.codec import Codec
from bpfpin.errors import BpfError, NotSupportedError, ReadOnlyMapError
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.batch_write import is_number
from bpfpin.objects.maps.codec import stride_of
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapFlag, MapType

if TYPE_CHECKING:
    import numpy as np

READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
WORDS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


# An array's elements as memory of this process (mmap of a BPF_F_MMAPABLE array, Linux 5.5).


class MappedMemory(Closing):
    """The memory of an array's elements, each *stride* bytes behind the other.

    It is the map's own memory: programs and other processes see what is written at once, and the
    map lives as long as the mapping. It can only be read where the map is frozen, or with
    *read_only*. `TypeError` for a map that cannot be mapped, `ReadOnlyMapError` for a handle that
    was opened for reading only: the kernel maps none.
    """

    def __init__(self, held: BaseMap, *, read_only: bool = False) -> None:
        self.about = require_mappable(held)
        self.stride = stride_of(held.value_size)
        self.count = held.max_entries
        size = self.stride * self.count
        self._mapping, self.is_read_only = _mapped(
            held, _whole_pages(size), about=self.about, read_only=read_only
        )
        self.view = memoryview(self._mapping)[:size]

    def close(self) -> None:
        """Let the memory go; arrays of numpy that still show it keep it. Again does nothing."""
        self.view.release()
        with contextlib.suppress(BufferError):  # the last of those arrays ends the mapping
            self._mapping.close()


class Cells(Closing):
    """Values in memory, one every *stride* bytes.

    What takes 1, 2, 4 or 8 bytes is read and written in one step: if it is aligned, nobody sees
    half of it. *plain* are such values if they are numbers to Python, too, *step* items apart.
    """

    __slots__ = ("_codec", "_stride", "_view", "_words", "plain", "step")

    def __init__(self, view: memoryview, codec: Codec, stride: int) -> None:
        self._view, self._codec, self._stride = view, codec, stride
        is_plain = is_number(codec)
        letter: Any = codec.letter if is_plain else WORDS.get(codec.size)
        is_whole = bool(letter) and stride % codec.size == 0
        self._words = view.cast(letter) if is_whole else None
        self.step = stride // codec.size if is_whole else 0
        self.plain = self._words if is_plain else None

    def read(self, index: int) -> Any:
        """Return the value at *index*."""
        if self.plain is not None:
            return self.plain[index * self.step]
        if self._words is None:
            return self._codec.decode(self._view, index * self._stride)
        word: int = self._words[index * self.step]
        return self._codec.decode(word.to_bytes(self._codec.size, "little"))

    def write(self, index: int, value: Any) -> None:
        """Write *value* at *index*; `ValueError` or `TypeError` if it does not fit."""
        data = self._codec.encode(value)
        if self.plain is not None:
            self.plain[index * self.step] = value
        elif self._words is not None:
            self._words[index * self.step] = int.from_bytes(data, "little")
        else:
            at = index * self._stride
            self._view[at : at + len(data)] = data

    def close(self) -> None:
        """Let go of the memory."""
        if self._words is not None:
            self._words.release()


def require_mappable(held: BaseMap) -> str:
    """Return how the map is told; `TypeError` if its type or flags do not let it be mapped."""
    about = f"map {held.name!r} (id {held.id})"
    if not traits_of(held.type).is_mmapable:
        kind = held.type.name.lower() if isinstance(held.type, MapType) else held.type
        raise TypeError(f"{about} is of type {kind}: only an array can be mapped into memory")
    if not held.info.map_flags & MapFlag.MMAPABLE:
        raise TypeError(
            f"{about} was made without BPF_F_MMAPABLE, so it cannot be mapped into memory;"
            " add it to map_flags in the source, or read the map by its keys"
        )
    return about


def _mapped(
    held: KernelObject, size: int, *, about: str, read_only: bool
) -> tuple[mmap.mmap, bool]:
    """Return the mapping and whether it is for reading only, which the kernel knows best."""
    if fcntl.fcntl(held.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise ReadOnlyMapError(
            f"{about} was opened for reading only, and the kernel does not map such a handle",
            hint="open it without read_only and map it with read_only=True, or read it by its keys",
        )
    try:
        if not read_only:
            with contextlib.suppress(PermissionError):  # it is frozen
                return mmap.mmap(held.fd, size, mmap.MAP_SHARED, READ_WRITE), False
        return mmap.mmap(held.fd, size, mmap.MAP_SHARED, mmap.PROT_READ), True
    except OSError as error:
        raise _refused(error, about) from None


def _refused(error: OSError, about: str) -> BpfError:
    refused = syscall_error("mmap", error.errno or 0, target=about)
    if isinstance(refused, NotSupportedError):
        refused.hint = "the kernel maps no values with locks, timers and the like in them"
    return refused


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class MappedArray(Closing):
    """The values of a BPF_F_MMAPABLE array as a sequence, in the map's own memory.

    Values read as the map's own do. A value of 1, 2, 4 or 8 bytes is read and written as a whole:
    nobody sees half of one. What is larger is copied piece by piece, so that a program that writes
    meanwhile may be seen between two members. `mapped[0] += 1` is a read and a write: what others
    add between the two is lost. Nothing orders one element against another.

    It is independent of the map's handle, which may be closed; `close` or `with` ends it.
    """

    __slots__ = ("_cells", "_codec", "_memory", "_plain", "_step")

    def __init__(self, memory: MappedMemory, codec: Codec) -> None:
        self._memory = memory
        self._codec = codec
        self._cells = Cells(memory.view, codec, memory.stride)
        self._plain, self._step = self._cells.plain, self._cells.step

    @classmethod
    def of(cls, held: BaseMap, *, read_only: bool = False) -> Self:
        """Map the array *held* (mmap; Linux 5.5), to be read only if it is frozen or so asked.

        `TypeError` if it is no array, or was made without `MapFlag.MMAPABLE`; `ReadOnlyMapError` if
        this handle was opened for reading only, which the kernel does not map.
        """
        return cls(MappedMemory(held, read_only=read_only), held._value)

    @property
    def is_read_only(self) -> bool:
        """Whether the map is frozen, or was mapped to be read only."""
        return self._memory.is_read_only

    def __len__(self) -> int:
        return self._memory.count

    def __getitem__(self, index: int) -> Any:
        if self._plain is not None:  # here rather than in `Cells`: a call more doubles the time
            return self._plain[index * self._step]
        return self._cells.read(self._checked(index))

    def __setitem__(self, index: int, value: Any) -> None:
        if self._memory.is_read_only:
            raise ReadOnlyMapError(f"{self._memory.about} is frozen or was mapped to be read only")
        self._cells.write(self._checked(index), value)

    def __iter__(self) -> Iterator[Any]:
        """Yield what each element holds when its turn comes."""
        return (self[index] for index in range(len(self)))

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """Return an array that shows the map's memory itself, now and later (extra `numpy`).

        Nothing is copied; `.copy()` makes a snapshot. Structures are structured types. The array
        can be written where the map can, and keeps the memory after `close`.
        """
        from bpfpin.objects.maps.numpy_arrays import live_array  # noqa: PLC0415  (numpy is an extra)

        return live_array(self._codec, self._memory.view, self._memory.stride)

    def close(self) -> None:
        """Let the memory go; the map stays. Again does nothing."""
        self._cells.close()
        self._memory.close()

    def _checked(self, index: int) -> int:
        count = self._memory.count
        if not -count <= index < count:
            raise IndexError(f"element {index} of {self._memory.about}, which has {count}")
        return index % count
