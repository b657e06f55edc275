"""Memory that a descriptor shares with the kernel (mmap(2)), and a barrier for its reads."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading

from bpfpin.syscall.call import LIBC
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing

PAGE_SIZE = mmap.PAGESIZE
WORD = 4
_MAP_FIXED_NOREPLACE = 0x100000  # asm-generic/mman-common.h; in Python's mmap since 3.13
_PROT_NONE = 0x0  # the same file; Python has no name for it
_MAP_FAILED = ctypes.c_void_p(-1).value


class SharedPages(Closing):
    """A mapping of *size* bytes of descriptor *fd* from byte *offset* on, in whole pages.

    Words of 32 and 64 bits are read and written in one piece: `words` returns a memoryview of
    native words, whose items CPython copies by one load or store of their size. (The `struct`
    module does not promise that.) `ReadOnlyMapError` if *writable* is asked of a descriptor that is
    open for reading only.
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
        """Return a view of the bytes from *start* on; `close` releases it, like all views."""
        view = self.data[start:]
        self._views.append(view)
        return view

    def words(self, size: int, start: int = 0) -> memoryview:
        """Return a view of the memory from byte *start* on as words of *size* bytes, 4 or 8."""
        view = self.part(start).cast("I" if size == WORD else "Q")
        self._views.append(view)
        return view

    def close(self) -> None:
        """Release all views and unmap the memory. Calling it again does nothing."""
        for view in self._views:
            view.release()
        # A slice of a view that the caller still has keeps the memory mapped until it is dropped.
        with contextlib.suppress(BufferError):
            self._pages.close()


class MappedAt(Closing):
    """A mapping of *size* bytes of descriptor *fd* at *address*; 0: the kernel chooses.

    Python's mmap takes no address, but a BPF arena that has one can be mapped only there.
    """

    def __init__(self, fd: int, size: int, *, address: int, target: str = "") -> None:
        # MAP_FIXED would replace what this process has mapped there. Any other address is refused
        # by the kernel (arena_map_mmap() of kernel/bpf/arena.c).
        flags = mmap.MAP_SHARED | (_MAP_FIXED_NOREPLACE if address else 0)
        access = mmap.PROT_READ | mmap.PROT_WRITE
        self._start = _map(size, access, flags, fd=fd, address=address, target=target)
        self._size = size

    def write(self, data: bytes) -> None:
        """Write *data* at the start, at most the size of the mapping."""
        ctypes.memmove(self._start, data, min(len(data), self._size))

    def read(self, size: int) -> bytes:
        """Return the first *size* bytes."""
        return ctypes.string_at(self._start, min(size, self._size))

    def close(self) -> None:
        """Unmap the memory. Calling it again does nothing."""
        if self._size:
            _unmap(self._start, self._size)
        self._size = 0


def free_address(size: int, *, target: str = "") -> int:
    """Return an address at which this process can map *size* bytes now.

    Raises:
        SyscallError: There is no room in the address space, or a limit on it (RLIMIT_AS) is
            smaller; *target* names what needs the room.
    """
    # PROT_NONE takes room and no memory. A private mapping that can be written counts as memory:
    # against vm.overcommit_memory=2, which ignores MAP_NORESERVE, and against RLIMIT_DATA
    # (accountable_mapping() and is_data_mapping() of mm/), and an arena may take 4 GiB. Another
    # thread may map something there before the address is used; MAP_FIXED_NOREPLACE then fails.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _map(size, _PROT_NONE, flags, target=target)
    _unmap(address, size)
    return address


def _map(size: int, access: int, flags: int, *, fd: int = -1, address: int = 0, target: str) -> int:
    # Without types ctypes would cut addresses to 32 bits.
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    start: int = LIBC.mmap(address, size, access, flags, fd, 0)
    if start == _MAP_FAILED:
        raise syscall_error("mmap", ctypes.get_errno(), target=target)
    return start


def _unmap(address: int, size: int) -> None:
    LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


class Fence:
    """A memory barrier: reads and writes before a call complete before those after it.

    The kernel writes a record first and then its position, so a reader must read the position
    first. x86-64 keeps the order of reads by itself, arm64 does not, and Python has no barrier. But
    releasing a lock is a store with release order, taking one is a load with acquire order, and
    such a load never passes such a store. So taking and releasing a lock twice is a barrier in both
    directions, in a tenth of a microsecond. (On x86-64 all four are locked instructions, which are
    full barriers.)
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Complete earlier reads and writes before later ones."""
        with self._lock:
            pass
        with self._lock:
            pass
