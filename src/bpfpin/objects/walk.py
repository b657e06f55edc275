"""All maps, programs and links of the host, by id (CAP_SYS_ADMIN)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from bpfpin.errors import IdNotFoundError
from bpfpin.objects.info import LinkInfo, MapInfo, ProgramInfo, link_info, map_info, program_info
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor

Info = TypeVar("Info")


def map_ids() -> Iterator[int]:
    """Yield the ids of all maps (BPF_MAP_GET_NEXT_ID)."""
    return _ids(bpf.map_get_next_id)


def program_ids() -> Iterator[int]:
    """Yield the ids of all programs (BPF_PROG_GET_NEXT_ID)."""
    return _ids(bpf.prog_get_next_id)


def link_ids() -> Iterator[int]:
    """Yield the ids of all links (BPF_LINK_GET_NEXT_ID)."""
    return _ids(bpf.link_get_next_id)


def maps() -> Iterator[MapInfo]:
    """Yield what the kernel reports of every map; one that goes away meanwhile is left out."""
    return _infos(map_ids(), bpf.map_get_fd_by_id, map_info)


def programs() -> Iterator[ProgramInfo]:
    """Yield what the kernel reports of every program; as `maps`."""
    return _infos(program_ids(), bpf.prog_get_fd_by_id, program_info)


def links() -> Iterator[LinkInfo]:
    """Yield what the kernel reports of every link; as `maps`."""
    return _infos(link_ids(), bpf.link_get_fd_by_id, link_info)


def _ids(next_id: Callable[[int], int | None]) -> Iterator[int]:
    found = next_id(0)
    while found is not None:
        yield found
        found = next_id(found)


def _infos(
    ids: Iterator[int], open_id: Callable[[int], int], read: Callable[[int], Info]
) -> Iterator[Info]:
    for object_id in ids:
        with contextlib.suppress(IdNotFoundError), Descriptor(open_id(object_id)) as there:
            yield read(there.fileno())
