"""Selection of a member's format: by path, name or type from the caller, then by rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from bpfpin.btf.btf import Btf
from bpfpin.btf.layout import MAX_DEPTH
from bpfpin.btf.types import Array, Modifier
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.formats import AUTO, Format
from bpfpin.records import dataclass

KEY: Final = "key"
VALUE: Final = "value"
_ROOTS: Final = frozenset({KEY, VALUE})
_NAMES_SHOWN: Final = 24

Formatted = Callable[[Codec, Format], Codec | None]


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A member: its path from the key or value, its name, and the names of its type.

    The path is empty if no format refers to it, so that types without formats share their codecs.
    """

    path: str
    name: str
    types: Sequence[str]

    @property
    def keys(self) -> Iterator[str]:
        """The keys of `formats` that match it, the most specific first."""
        yield self.path
        # The root's path is `key` or `value`, which may also be the name of a member.
        if self.name not in _ROOTS:
            yield self.name
        yield from self.types


def type_names(btf: Btf, type_id: int) -> list[str]:
    """Return the names of a type, typedefs first; an array has the names of its elements."""
    names: list[str] = []
    # Twice the depth: each array may stand between two typedefs. Damaged BTF may have a cycle.
    for _ in range(2 * MAX_DEPTH):
        kind = btf[type_id]
        if not isinstance(kind, Array):
            names.append(kind.name)
        if not isinstance(kind, Array | Modifier):
            break
        type_id = kind.element_id if isinstance(kind, Array) else kind.type_id
    return [name for name in names if name]


class FormatTable:
    """The formats of one map, as in `formats=` of `Map.from_pin`.

    A key with an asterisk, or one of `AUTO`, is a rule `TYPE NAME` or `NAME`, made of `fnmatch`
    patterns; it applies to the members that it fits. Any other key is a path, a name or a type; if
    the format does not fit there, `ValueError` is raised.
    """

    def __init__(self, formats: Mapping[str, Format | str]) -> None:
        # BTF has the names of structures without the keyword, which people copy from the source.
        known = {key.removeprefix("struct "): _format(form) for key, form in formats.items()}
        self._exact = {key: form for key, form in known.items() if not _is_rule(key)}
        rules = (
            (key.lower().rpartition(" "), form) for key, form in known.items() if _is_rule(key)
        )
        self._rules = [(kind or "*", name, form) for (kind, _, name), form in rules]
        # A key that matches nothing is most likely a typing error, so `check_used` reports it.
        self._unused = dict.fromkeys(self._exact)
        self._seen: dict[str, None] = {}

    @property
    def is_exact(self) -> bool:
        """Whether there are keys other than rules, so that `check_used` may fail."""
        return bool(self._exact)

    def cares_for(self, path: str) -> bool:
        """Whether a path in `formats` is *path* or below it."""
        return any(key == path or key.startswith(f"{path}.") for key in self._exact)

    def formatted(self, plain: Codec, field: FieldPath) -> Codec:
        """Return the codec of *field* in its format; *plain* is its codec without a format."""
        # Names that occurred, for the message of `check_used`; a dict keeps their order.
        self._seen[field.name] = None
        asked = [key for key in field.keys if key in self._exact]
        # Also those that a more specific key outranks: they name a member that exists.
        for key in asked:
            self._unused.pop(key, None)
        if asked:
            return _fitting(plain, self._exact[asked[0]], field)
        return self._by_rule(plain, field)

    def check_used(self) -> None:
        """Raise `ValueError` if a key of `formats` matched no member."""
        if self._unused:
            known = ", ".join(list(self._seen)[:_NAMES_SHOWN])
            missing = ", ".join(map(repr, self._unused))
            raise ValueError(f"formats: no member or type {missing}; the members are {known}")

    def _by_rule(self, plain: Codec, field: FieldPath) -> Codec:
        # Rules are guesses, so they ignore case and are skipped where they do not fit.
        types, name = [text.lower() for text in field.types], field.name.lower()
        fitting = (
            _maker()(plain, form)
            for type_pattern, name_pattern, form in self._rules
            if fnmatchcase(name, name_pattern) and _any_matches(types, type_pattern)
        )
        return next(filter(None, fitting), plain)


def _is_rule(key: str) -> bool:
    return "*" in key or key in AUTO


def _any_matches(types: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in types)


def _fitting(plain: Codec, form: Format, field: FieldPath) -> Codec:
    codec = _maker()(plain, form)
    if codec is None:
        path = field.path or field.name
        kind = next(filter(None, field.types), "")
        raise ValueError(
            f"formats: {path} has {plain.size} bytes ({kind or 'no type'}); format {form.value!r}"
            " does not fit"
        )
    return codec


def _format(how: Format | str) -> Format:
    try:
        return Format(how)
    except ValueError:
        known = ", ".join(form.value for form in Format)
        raise ValueError(f"unknown format {how!r}; the formats are {known}") from None


def _maker() -> Formatted:
    from bpfpin.codecs.formats import formatted  # noqa: PLC0415  (saves its import if unused)

    return formatted
