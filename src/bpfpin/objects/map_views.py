"""The views of a map; their walks read in batches instead of key by key."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any, Protocol


class Batched(Protocol):
    """What the views need of a map."""

    def lookup_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Yield the entries in lists."""


class EntriesView(ItemsView[Any, Any]):
    """Keys and values, each pair read at the same time."""

    _mapping: Batched

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return itertools.chain.from_iterable(self._mapping.lookup_batch())


class EntryValuesView(ValuesView[Any]):
    """The values."""

    _mapping: Batched

    def __iter__(self) -> Iterator[Any]:
        for entries in self._mapping.lookup_batch():
            for _, value in entries:
                yield value

    def __contains__(self, value: object) -> bool:
        return any(value == one for one in self)
