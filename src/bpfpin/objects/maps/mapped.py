"""Arrays whose elements are read and written in memory, without system calls (Linux 5.5)."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Self

from bpfpin.codecs.codec import Codec
from bpfpin.deprecated import renamed_argument
from bpfpin.errors import BpfError, NotSupportedError, ReadOnlyMapError
from bpfpin.map_traits import stride_of, traits_of
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.batch_write import is_number
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapFlag

if TYPE_CHECKING:
    import numpy as np

READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
WORDS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


class MappedMemory(Closing):
    """The memory of an array's elements, one every *stride* bytes (mmap of a BPF_F_MMAPABLE array).

    It is the map's own memory: programs and other processes see writes at once, and the map exists
    as long as the mapping. It is read-only if the map is frozen, or with *read_only*. `TypeError`
    for a map that cannot be mapped, `ReadOnlyMapError` for a handle that was opened for reading
    only, which the kernel does not map (bpf_map_mmap in kernel/bpf/syscall.c).
    """

    def __init__(self, bpf_map: BaseMap, *, read_only: bool = False) -> None:
        """Map the memory of an array.

        Args:
            bpf_map: The array, made with BPF_F_MMAPABLE.
            read_only: Whether to map it for reading only.
        """
        self.about = require_mappable(bpf_map)
        # elem_size in array_map_alloc() of kernel/bpf/arraymap.c is a multiple of 8.
        self.stride = stride_of(bpf_map.value_size)
        self.count = bpf_map.max_entries
        size = self.stride * self.count
        self._mapping, self.is_read_only = _mapped(
            bpf_map, _whole_pages(size), about=self.about, read_only=read_only
        )
        self.view = memoryview(self._mapping)[:size]

    def close(self) -> None:
        """Release the memory; numpy arrays that show it keep it. Closing twice does nothing."""
        self.view.release()
        # Closing fails while numpy arrays use the buffer; the last of them ends the mapping.
        with contextlib.suppress(BufferError):
            self._mapping.close()


class Cells(Closing):
    """Values in memory, one every *stride* bytes.

    Values of 1, 2, 4 or 8 bytes are read and written in one step, so that nobody sees half of an
    aligned one. If they are plain numbers, *plain* shows them, *step* items apart.
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
        # As one word: by bytes, a program could change the value between two of them.
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
        """Release the memory."""
        if self._words is not None:
            # A cast view counts as an export: the mapping cannot be closed before it is released.
            self._words.release()


def require_mappable(bpf_map: BaseMap) -> str:
    """Return how errors call the map; `TypeError` if its type or flags do not allow a mapping."""
    about = f"map {bpf_map.name!r} (id {bpf_map.id})"
    if not traits_of(bpf_map.type).is_mmapable:
        kind = type_name(bpf_map.type)
        raise TypeError(f"{about} is of type {kind}: only an array can be mapped into memory")
    if not bpf_map.info.map_flags & MapFlag.MMAPABLE:
        raise TypeError(
            f"{about} was made without BPF_F_MMAPABLE, so it cannot be mapped into memory;"
            " add it to map_flags in the source, or read the map by its keys"
        )
    return about


def _mapped(
    bpf_map: KernelObject, size: int, *, about: str, read_only: bool
) -> tuple[mmap.mmap, bool]:
    """Return the mapping and whether it is read-only, which the kernel decides."""
    if fcntl.fcntl(bpf_map.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise ReadOnlyMapError(
            f"{about} was opened for reading only, and the kernel does not map such a handle",
            hint="open it without read_only and map it with read_only=True, or read it by its keys",
        )
    try:
        if not read_only:
            # bpf_map_mmap (kernel/bpf/syscall.c) answers EPERM for a frozen map.
            with contextlib.suppress(PermissionError):
                return mmap.mmap(bpf_map.fd, size, mmap.MAP_SHARED, READ_WRITE), False
        return mmap.mmap(bpf_map.fd, size, mmap.MAP_SHARED, mmap.PROT_READ), True
    except OSError as error:
        raise _refused(error, about) from None


def _refused(error: OSError, about: str) -> BpfError:
    refused = syscall_error("mmap", error.errno or 0, target=about)
    if isinstance(refused, NotSupportedError):
        refused.hint = "the kernel maps no values with locks, timers and the like in them"
    return refused


def _whole_pages(size: int) -> int:
    # The memory of a BPF_F_MMAPABLE array is rounded up to whole pages as well.
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class MappedArray(Closing):
    """The values of a BPF_F_MMAPABLE array as a sequence, in the map's own memory.

    Values are decoded as those of the map. A value of 1, 2, 4 or 8 bytes is read and written as a
    whole: nobody sees half of one. Larger values are copied piece by piece, so the write of a
    program may be seen in some members and not yet in others. `mapped[0] += 1` is a read and a
    write: what others add between the two is lost. There is no order between elements.

    The mapping is independent of the map's handle, which may be closed; `close` or `with` ends it.

    Args:
        memory: The memory of the map; `MappedArray.of` makes it.
        codec: How its values are decoded.
    """

    __slots__ = ("_cells", "_codec", "_memory", "_plain", "_step")

    def __init__(self, memory: MappedMemory, codec: Codec) -> None:
        self._memory = memory
        self._codec = codec
        self._cells = Cells(memory.view, codec, memory.stride)
        self._plain, self._step = self._cells.plain, self._cells.step

    @classmethod
    @renamed_argument("held", "bpf_map")
    def of(cls, bpf_map: BaseMap, *, read_only: bool = False) -> Self:
        """Map the values of an array into memory.

        Args:
            bpf_map: The array; the handle may be closed afterwards.
            read_only: Map it for reading only, as a frozen map always is.

        Returns:
            The values as a sequence.

        Raises:
            TypeError: It is not an array, or was created without `MapFlag.MMAPABLE`.
            ReadOnlyMapError: The handle was opened for reading only.
            NotSupportedError: The values contain locks or timers, or the kernel is too old.

        Kernel: mmap (Linux 5.5).
        """
        return cls(MappedMemory(bpf_map, read_only=read_only), bpf_map.value_codec)

    @property
    def is_read_only(self) -> bool:
        """Whether the map is frozen, or was mapped for reading only."""
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
        """Iterate over the values; each is read when it is yielded."""
        return (self[index] for index in range(len(self)))

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """Return an array that shows the memory of the map.

        Nothing is copied, so later writes show; `.copy()` makes a snapshot. Structures are
        structured types. The array is writable if the map is, and keeps the memory after `close`.

        Raises:
            MissingExtraError: numpy is not installed (extra `numpy`).
            TypeError: A type has no counterpart in numpy.
        """
        from bpfpin.objects.maps.numpy_arrays import live_array  # noqa: PLC0415  (numpy is an extra)

        return live_array(self._codec, self._memory.view, self._memory.stride)

    def close(self) -> None:
        """Release the memory; the map stays. Closing twice does nothing."""
        self._cells.close()
        self._memory.close()

    def _checked(self, index: int) -> int:
        count = self._memory.count
        if not -count <= index < count:
            raise IndexError(f"element {index} of {self._memory.about}, which has {count}")
        return index % count
