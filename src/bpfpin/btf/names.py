"""Types by name: an index of string offsets, and the names that differ by a flavour alone.

A flavour is what follows three underscores: `task_struct___old` is another view of `task_struct`
(libbpf's convention, Documentation/bpf/libbpf/libbpf_overview.rst).
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from itertools import accumulate

_FLAVOUR = re.compile(r"(.*[^_])___[^_]", re.DOTALL)
_MARK = b"___"
_SEARCHES = 16  # a search through the kernel's names takes 1 ms, a list of them 40


def essential_name(name: str) -> str:
    """Return *name* without its flavour; the last one counts where there are several."""
    found = _FLAVOUR.match(name) if "___" in name else None
    return found[1] if found else name


class NameIndex:
    """The ids of one table by the string offset of their names; nameless types are not in it.

    Made of C loops: the kernel has some 130,000 types, and an object for each would take 90 MB.
    """

    def __init__(self, name_offsets: Sequence[int], *, first_id: int) -> None:
        ids = range(first_id, first_id + len(name_offsets))
        first = dict(zip(reversed(name_offsets), reversed(ids), strict=True))
        again = [
            (offset, type_id)
            for offset, type_id in zip(name_offsets, ids, strict=True)
            if first[offset] != type_id and offset
        ]
        first.pop(0, None)
        self._first = first
        self._again: dict[int, list[int]] = {}
        for offset, type_id in again:
            self._again.setdefault(offset, []).append(type_id)

    @property
    def offsets(self) -> Set[int]:
        """Where the names are."""
        return self._first.keys()

    def at(self, offset: int) -> list[int]:
        """Return the ids whose name is the string at *offset*, in their order."""
        first = self._first.get(offset)
        return [] if first is None else [first, *self._again.get(offset, ())]


class StringFinder:
    """Where a name is in a string section; listed as a whole once it is asked for many times.

    *used* are the offsets that types have names at: if one of them is the tail of a longer string,
    the list would not do, and every name is searched for.
    """

    def __init__(self, strings: bytes, *, first: int, used: Set[int]) -> None:
        self._strings = strings
        self._first = first
        self._used = used
        self._searches = 0
        self._listed: dict[bytes, int] | None = None
        self._found: dict[bytes, list[int]] = {}

    def offsets(self, name: bytes) -> list[int]:
        """Return where the name of a type of this table is, or may be."""
        self._searches += 1
        if self._searches == _SEARCHES:
            self._listed = self._list()
        if self._listed is None:
            return self.search(name)
        return [self._listed[name]] if name in self._listed else []

    def search(self, name: bytes) -> list[int]:
        """Return where *name* ends a string, as the whole of it or as its tail."""
        if name not in self._found:
            self._found[name] = self._search(name)
        return self._found[name]

    def _search(self, name: bytes) -> list[int]:
        found: list[int] = []
        ending = name + b"\0"
        at = self._strings.find(ending) if name else -1
        while at >= 0:
            found.append(self._first + at)
            at = self._strings.find(ending, at + 1)
        return found

    def _list(self) -> dict[bytes, int] | None:
        used, names = self._used, self._strings.split(b"\0")[:-1]
        offsets = accumulate([len(name) + 1 for name in names], initial=self._first)
        found = {name: at for name, at in zip(names, offsets, strict=False) if at in used}
        # Fewer where a string is there twice, or a name is a tail.
        return found if len(found) == len(used) else None


def flavoured(strings: bytes) -> dict[str, list[int]]:
    """Return where the strings with a flavour begin, by their essential names."""
    found: dict[str, list[int]] = {}
    at = strings.find(_MARK)
    while at >= 0:
        start, end = strings.rfind(b"\0", 0, at) + 1, strings.index(b"\0", at)
        name = strings[start:end].decode(errors="backslashreplace")
        if (essential := essential_name(name)) != name:
            found.setdefault(essential, []).append(start)
        at = strings.find(_MARK, end)
    return found
