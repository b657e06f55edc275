"""Which format a member gets: what the caller asked for by path, name or type, then by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from bpfpin.btf.btf import Btf
from bpfpin.btf.layout import MAX_DEPTH
from bpfpin.btf.types import Array, Modifier
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.formats import AUTO, Format

KEY: Final = "key"
VALUE: Final = "value"
_ROOTS: Final = frozenset({KEY, VALUE})
_NAMES_TOLD: Final = 24

Formatted = Callable[[Codec, Format], Codec | None]


@dataclass(frozen=True, slots=True)
class FieldPath:
    """Where a value is: its path from key or value, its last name, the names of its type.

    A path is empty where no format asks for it.
    """

    path: str
    name: str
    types: Sequence[str]

    @property
    def keys(self) -> Iterator[str]:
        """What it is called in `formats`, the most telling first; a root is no member's name."""
        yield self.path
        if self.name not in _ROOTS:
            yield self.name
        yield from self.types


def type_names(btf: Btf, type_id: int) -> list[str]:
    """Return what a type is called, typedefs first; an array is called like its elements."""
    found: list[str] = []
    for _ in range(2 * MAX_DEPTH):
        kind = btf[type_id]
        if not isinstance(kind, Array):
            found.append(kind.name)
        if not isinstance(kind, Array | Modifier):
            break
        type_id = kind.element_id if isinstance(kind, Array) else kind.type_id
    return [name for name in found if name]


class FormatTable:
    """The formats of one map, as in `formats=` of `Map.from_pin`.

    A key with an asterisk, or one of `AUTO`, is a rule `TYPE NAME`, patterns of `fnmatch`, or just
    `NAME`; it goes where it fits. Every other one is a path, a name or a type; where it does not
    fit, that is `ValueError`.
    """

    def __init__(self, formats: Mapping[str, Format | str]) -> None:
        known = {key.removeprefix("struct "): _format(how) for key, how in formats.items()}
        self._exact = {key: how for key, how in known.items() if not _is_rule(key)}
        rules = ((key.lower().rpartition(" "), how) for key, how in known.items() if _is_rule(key))
        self._rules = [(kind or "*", name, how) for (kind, _, name), how in rules]
        self._unused = dict.fromkeys(self._exact)
        self._seen: dict[str, None] = {}

    @property
    def is_exact(self) -> bool:
        """Whether there is more than rules, so that something may not fit."""
        return bool(self._exact)

    def cares_for(self, path: str) -> bool:
        """Whether a path that is asked for begins with *path*."""
        return any(key == path or key.startswith(f"{path}.") for key in self._exact)

    def formatted(self, plain: Codec, place: FieldPath) -> Codec:
        """Return the codec of a place that without any format would read as *plain*."""
        self._seen[place.name] = None
        asked = [key for key in place.keys if key in self._exact]
        for key in asked:
            self._unused.pop(key, None)
        if asked:
            return _fitting(plain, self._exact[asked[0]], place)
        return self._by_rule(plain, place)

    def check_used(self) -> None:
        """Raise `ValueError` where something asked for is not there."""
        if self._unused:
            there = ", ".join(list(self._seen)[:_NAMES_TOLD])
            missing = ", ".join(map(repr, self._unused))
            raise ValueError(f"formats: no member or type is called {missing}; there are {there}")

    def _by_rule(self, plain: Codec, place: FieldPath) -> Codec:
        types, name = [one.lower() for one in place.types], place.name.lower()
        fitting = (
            _maker()(plain, how)
            for type_pattern, name_pattern, how in self._rules
            if fnmatchcase(name, name_pattern) and _any_matches(types, type_pattern)
        )
        return next(filter(None, fitting), plain)


def _is_rule(key: str) -> bool:
    return "*" in key or key in AUTO


def _any_matches(types: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(one, pattern) for one in types)


def _fitting(plain: Codec, how: Format, place: FieldPath) -> Codec:
    made = _maker()(plain, how)
    if made is None:
        where = place.path or place.name
        kind = next(filter(None, place.types), "")
        raise ValueError(
            f"formats: {where} is {plain.size} bytes ({kind or 'no type'}), which {how.value!r}"
            " does not fit"
        )
    return made


def _format(how: Format | str) -> Format:
    try:
        return Format(how)
    except ValueError:
        there = ", ".join(one.value for one in Format)
        raise ValueError(f"there is no format {how!r}; there are {there}") from None


def _maker() -> Formatted:
    from bpfpin.codecs.formats import formatted  # noqa: PLC0415  (who asks for none pays for none)

    return formatted
