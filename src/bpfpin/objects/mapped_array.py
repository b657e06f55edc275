"""An array whose elements are read and written without a system call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from bpfpin.codecs.codec import Codec
from bpfpin.errors import ReadOnlyMapError
from bpfpin.objects.mapped_memory import Cells, MappedMemory
from bpfpin.objects.typed_map import TypedMap
from bpfpin.syscall.fd import Closing

if TYPE_CHECKING:
    import numpy as np


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
    def of(cls, held: TypedMap, *, read_only: bool = False) -> Self:
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
        from bpfpin.objects.arrays import live_array  # noqa: PLC0415  (numpy is an extra)

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
