"""Indexes of types by name, and the names that differ by their flavour only.

A flavour is the suffix after three underscores: `task_struct___old` is another view of
`task_struct` (libbpf's convention, Documentation/bpf/libbpf/libbpf_overview.rst).

`kernel_name` is what the kernel keeps of the names of maps and programs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from itertools import accumulate

from bpfpin.uapi import OBJ_NAME_LEN

# Exactly three underscores: bpf_core_is_flavor_sep() in libbpf's relo_core.c.
_FLAVOUR = r"(.*[^_])___[^_]"
_MARK = b"___"
_SEARCHES = 16  # searching the kernel's names once takes 1 ms, listing them all 40 ms


def kernel_name(name: str) -> str:
    """Return the name that a map or a program called *name* has in the kernel."""
    # bpf_obj_name_cpy() in kernel/bpf/syscall.c refuses other characters, and keeps up to
    # BPF_OBJ_NAME_LEN (16) bytes with the NUL.
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)[: OBJ_NAME_LEN - 1]


def essential_name(name: str) -> str:
    """Return *name* without its flavour; of several, the last one is removed."""
    match = re.match(_FLAVOUR, name, re.DOTALL) if "___" in name else None
    return match[1] if match else name


class NameIndex:
    """The ids of one table by the string offset of their names, without the unnamed types.

    Two plain dicts, filled by C loops: the kernel has some 130,000 types, and an object for each
    would take 90 MB.
    """

    def __init__(self, name_offsets: Sequence[int], *, first_id: int) -> None:
        ids = range(first_id, first_id + len(name_offsets))
        # From the end, so that the first of several types with one name stays in the dict.
        first = dict(zip(reversed(name_offsets), reversed(ids), strict=True))
        again = [
            (offset, type_id)
            for offset, type_id in zip(name_offsets, ids, strict=True)
            if first[offset] != type_id and offset
        ]
        first.pop(0, None)  # offset 0 is the empty name
        self._first = first
        self._again: dict[int, list[int]] = {}
        for offset, type_id in again:
            self._again.setdefault(offset, []).append(type_id)

    @property
    def offsets(self) -> Set[int]:
        """The string offsets of all names."""
        return self._first.keys()

    def at(self, offset: int) -> list[int]:
        """Return the ids whose name is the string at *offset*, ascending."""
        first = self._first.get(offset)
        return [] if first is None else [first, *self._again.get(offset, ())]


class StringFinder:
    """Finds the offsets of a name in a string section.

    The first names are searched for in the bytes; after that, all names are listed in a dict.
    *used* are the offsets that types have as names. If one of them is inside a longer string, a
    list is incomplete, and every name is searched for.
    """

    def __init__(self, strings: bytes, *, first: int, used: Set[int]) -> None:
        self._strings = strings
        self._first = first
        self._used = used
        self._searches = 0
        self._listed: dict[bytes, int] | None = None
        self._results: dict[bytes, list[int]] = {}

    def offsets(self, name: bytes) -> list[int]:
        """Return the offsets at which the name of a type of this table may be."""
        self._searches += 1
        if self._searches == _SEARCHES:
            self._listed = self._list()
        if self._listed is None:
            return self.search(name)
        return [self._listed[name]] if name in self._listed else []

    def search(self, name: bytes) -> list[int]:
        """Return the offsets of *name* where it is a whole string or the tail of one."""
        if name not in self._results:
            self._results[name] = self._search(name)
        return self._results[name]

    def _search(self, name: bytes) -> list[int]:
        offsets: list[int] = []
        ending = name + b"\0"
        start = self._strings.find(ending) if name else -1
        while start >= 0:
            offsets.append(self._first + start)
            start = self._strings.find(ending, start + 1)
        return offsets

    def _list(self) -> dict[bytes, int] | None:
        used, names = self._used, self._strings.split(b"\0")[:-1]
        offsets = accumulate([len(name) + 1 for name in names], initial=self._first)
        listed = {name: at for name, at in zip(names, offsets, strict=False) if at in used}
        # Fewer if a string occurs twice, or if a name is the tail of a longer string.
        return listed if len(listed) == len(used) else None


def flavoured(strings: bytes) -> dict[str, list[int]]:
    """Return the offsets of the strings that have a flavour, by their essential names."""
    starts: dict[str, list[int]] = {}
    at = strings.find(_MARK)
    while at >= 0:
        start, end = strings.rfind(b"\0", 0, at) + 1, strings.index(b"\0", at)
        name = strings[start:end].decode(errors="backslashreplace")
        if (essential := essential_name(name)) != name:
            starts.setdefault(essential, []).append(start)
        at = strings.find(_MARK, end)
    return starts
