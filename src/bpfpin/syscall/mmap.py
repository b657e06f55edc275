"""Memory that a descriptor shares with the kernel (mmap(2)), and the order of its reads."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading

from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.libc import LIBC

PAGE_SIZE = mmap.PAGESIZE
WORD = 4
_MAP_FIXED_NOREPLACE = 0x100000  # of asm-generic/mman-common.h; Python has it from 3.13 on
_MAP_NORESERVE = 0x4000  # likewise
_MAP_FAILED = ctypes.c_void_p(-1).value


class SharedPages(Closing):
    """*size* bytes of what descriptor *fd* shares, from byte *offset* on; whole pages.

    Words of 32 and 64 bits are read and written in one piece: `words` gives a memoryview of native
    words, whose items CPython copies by one load or store of their size. (The `struct` module does
    not promise that.) `ReadOnlyMapError` where writing is asked of a handle for reading.
    """

    def __init__(
        self, fd: int, size: int, *, offset: int = 0, writable: bool = False, target: str = ""
    ) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            pages = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=protection, offset=offset)
        except OSError as error:
            raise syscall_error("mmap", error.errno or 0, target=target) from None
        self._pages = pages
        self.data = memoryview(pages)
        self._views = [self.data]

    def part(self, start: int) -> memoryview:
        """Return the bytes from *start* on; like all views of the memory they end with `close`."""
        view = self.data[start:]
        self._views.append(view)
        return view

    def words(self, size: int, start: int = 0) -> memoryview:
        """Return the memory from byte *start* on as words of *size* bytes, 4 or 8."""
        view = self.part(start).cast("I" if size == WORD else "Q")
        self._views.append(view)
        return view

    def close(self) -> None:
        """Give the memory back; views of it end. Again does nothing."""
        for view in self._views:
            view.release()
        # A slice that somebody still holds keeps the memory until it is dropped, too.
        with contextlib.suppress(BufferError):
            self._pages.close()


class MappedAt(Closing):
    """*size* bytes of what descriptor *fd* shares, mapped at *address*; 0: where there is room.

    Python's mmap takes no address; an arena of BPF that has one is mapped nowhere else.
    """

    def __init__(self, fd: int, size: int, *, address: int, target: str = "") -> None:
        LIBC.mmap.restype = ctypes.c_void_p
        LIBC.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        ]
        flags = mmap.MAP_SHARED | (_MAP_FIXED_NOREPLACE if address else 0)
        access = mmap.PROT_READ | mmap.PROT_WRITE
        start = LIBC.mmap(address, size, access, flags, fd, 0)
        if start == _MAP_FAILED:
            raise syscall_error("mmap", ctypes.get_errno(), target=target)
        self._start, self._size = start, size

    def write(self, data: bytes) -> None:
        """Write *data* at the start; not more than there is room for."""
        ctypes.memmove(self._start, data, min(len(data), self._size))

    def read(self, size: int) -> bytes:
        """Return the first *size* bytes."""
        return ctypes.string_at(self._start, min(size, self._size))

    def close(self) -> None:
        """Unmap the memory. Again does nothing."""
        if self._size:
            LIBC.munmap(ctypes.c_void_p(self._start), ctypes.c_size_t(self._size))
        self._size = 0


def free_address(size: int) -> int:
    """Return an address at which this process has *size* bytes of room now."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    with mmap.mmap(-1, size, flags=flags) as room:
        byte = ctypes.c_char.from_buffer(room)
        address = ctypes.addressof(byte)
        del byte  # it holds the memory
    return address


class Fence:
    """A barrier: what is read or written before a call of it comes before what follows.

    The kernel writes a record first and its position then; we must read them the other way round.
    x86-64 keeps the order of reads by itself, arm64 does not, and Python has no barrier. But giving
    a lock back stores with release order, and taking one loads with acquire order, and a load of
    that kind never passes a store of that kind: so to take, give back, take and give back is a
    barrier in both directions, for a tenth of a microsecond. (On x86-64 all four are locked
    instructions, full barriers.)
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Keep what stands before from passing what stands behind."""
        with self._lock:
            pass
        with self._lock:
            pass
