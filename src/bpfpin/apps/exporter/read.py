"""Reads numbers of maps and programs by their descriptors; needs no capability."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Final, NamedTuple

from bpfpin.apps.exporter.view import CounterView
from bpfpin.map_traits import stride_of
from bpfpin.objects.maps.map import Map
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import MapBatchAttr, ProgInfoAnswer
from bpfpin.syscall.call import Call
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import Cmd

_ENOENT: Final = 2
_LETTERS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MEMORY: Final = b"memlock:"
ENTRIES_RECORD: Final = struct.Struct("<qq")  # id of a map, number of its entries
_CHUNK: Final = 1 << 16
_POSITION: Final = struct.Struct("<Q")


class ProgramRuns(NamedTuple):
    """What the kernel counted of a program: runs, their time, and runs that were skipped."""

    runs: int
    time_ns: int
    recursion_misses: int


class CounterReader:
    """Reads the counters of arrays, each with one system call where the kernel has batches."""

    def __init__(self) -> None:
        self._attribute = MapBatchAttr()
        self._call = Call(Cmd.MAP_LOOKUP_BATCH, self._attribute)
        self._position = ctypes.create_string_buffer(8)
        self._room: dict[tuple[int, int], tuple[int, ctypes.Array[ctypes.c_char], int]] = {}

    def read(self, fd: int, view: CounterView) -> list[int]:
        """Return packets and bytes of each entry in turn, added up over the CPUs.

        Raises what a lookup does if the map cannot be read.
        """
        cpus = possible_cpus() if view.is_per_cpu else 1
        step = stride_of(view.value_size) if view.is_per_cpu else view.value_size
        count = len(view.keys)
        data = self._values(fd, count, step * cpus)
        if view.is_per_cpu and _is_words(view):
            return _added_words(data, cpus, view)
        numbers: list[int] = []
        for index in range(count):
            value = data[index * step * cpus : (index + 1) * step * cpus]
            for field in (view.packets, view.bytes):
                numbers.append(_added(value, step, field) if field else 0)
        return numbers

    def _values(self, fd: int, count: int, size: int) -> bytes | memoryview:
        address, buffer, keys = self._room_for(count, size)
        batch = self._attribute
        batch.in_batch, batch.out_batch = 0, ctypes.addressof(self._position)
        batch.keys, batch.values = keys, address
        batch.count, batch.map_fd = count, fd
        # ENOENT says that this is all.
        answer = self._call.enter()
        if (answer >= 0 or self._call.errno == _ENOENT) and batch.count == count:
            return memoryview(buffer)[: count * size]
        with Map.from_fd(os.dup(fd)) as bpf_map:
            return b"".join(bpf_map.lookup_bytes(key.to_bytes(4, "little")) for key in range(count))

    def _room_for(self, count: int, size: int) -> tuple[int, ctypes.Array[ctypes.c_char], int]:
        room = self._room.get((count, size))
        if room is None:
            # Keys, which nobody looks at, after the values.
            buffer = ctypes.create_string_buffer(count * (size + 4))
            address = ctypes.addressof(buffer)
            room = self._room[count, size] = (address, buffer, address + count * size)
        return room


def _is_words(view: CounterView) -> bool:
    fields = [field for field in (view.packets, view.bytes) if field]
    return all(size == 8 and offset % 8 == 0 for offset, size in fields)


def _added_words(data: bytes | memoryview, cpus: int, view: CounterView) -> list[int]:
    """Return the sums over CPUs where all counters are words of 64 bits: four times as fast."""
    step = stride_of(view.value_size) // 8
    size = step * cpus
    words = struct.unpack(f"<{len(view.keys) * size}Q", data)
    packets = view.packets[0] // 8
    in_bytes = view.bytes[0] // 8 if view.bytes else None
    numbers = []
    for start in range(0, len(words), size):
        end = start + size
        numbers.append(sum(words[start + packets : end : step]))
        numbers.append(0 if in_bytes is None else sum(words[start + in_bytes : end : step]))
    return numbers


def _added(values: bytes | memoryview, step: int, field: list[int]) -> int:
    """Return the sum of a field over values that lie *step* bytes apart."""
    offset, size = field
    letter = _LETTERS.get(size)
    if letter is None:
        return 0
    places = range(offset, len(values), step)
    return sum(struct.unpack_from(f"<{letter}", values, at)[0] for at in places)


class RunReader:
    """Reads what the kernel counted of programs."""

    def __init__(self) -> None:
        self._answer = ProgInfoAnswer()

    def read(self, fd: int) -> ProgramRuns:
        """Return the numbers of program *fd*."""
        answer = self._answer
        # A count that is left of the program before would ask for an array (EFAULT).
        ctypes.memset(ctypes.addressof(answer), 0, ctypes.sizeof(answer))
        bpf.obj_get_info_by_fd(fd, answer)
        return ProgramRuns(answer.run_cnt, answer.run_time_ns, answer.recursion_misses)


def read_entries(link_fd: int) -> dict[int, int]:
    """Return the number of entries of every map by its id, 0 for types that are not counted.

    Kernel: BPF_ITER_CREATE, read(2); neither needs a capability.
    """
    data = bytearray()
    with Descriptor(bpf.iter_create(link_fd, target="the iterator of maps")) as run:
        while True:
            try:
                chunk = os.read(run.fileno(), _CHUNK)
            except BlockingIOError:  # the kernel let others run; the next read goes on
                continue
            if not chunk:
                break
            data += chunk
    whole = len(data) // ENTRIES_RECORD.size * ENTRIES_RECORD.size
    return {
        map_id: max(0, count)
        for map_id, count in ENTRIES_RECORD.iter_unpack(memoryview(data)[:whole])
    }


def memory_of(fd: int) -> int | None:
    """Return the memory of map *fd* in bytes, None if the kernel does not say it."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:  # noqa: PTH123 - twice as fast
        text = file.read()
    at = text.find(_MEMORY)
    return int(text[at + len(_MEMORY) :].split(None, 1)[0]) if at >= 0 else None


def ring_used(fd: int) -> int:
    """Return the bytes in a ring buffer that its reader has not consumed yet.

    Kernel: mmap(2) of the two pages with the positions (kernel/bpf/ringbuf.c).
    """
    page = mmap.PAGESIZE
    with mmap.mmap(fd, 2 * page, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as pages:
        # The consumer first: the producer never falls behind a position that was read before.
        (consumed,) = _POSITION.unpack_from(pages, 0)
        (produced,) = _POSITION.unpack_from(pages, page)
    return max(0, int(produced - consumed))
