"""Arrays, structures and unions, put together from the codecs of their parts."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

from bpfpin.btf.layout import MAX_MEMBERS
from bpfpin.codecs.codec import Buffer, Codec, MisfitError, ScalarCodec, padded_form
from bpfpin.errors import ObjectFileError

Rows = Iterable[tuple[Any, ...]]


class KeyRecord(dict[str, Any]):
    """A structure that is a key: a dict that cannot change and can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none because it can change
        return hash(frozenset(self.items()))

    def _refuse(self, *_arguments: object, **_members: object) -> NoReturn:
        raise TypeError("a key cannot be changed; dict(key) makes a copy that can")

    def __reduce__(self) -> tuple[Any, ...]:
        return KeyRecord, (dict(self),)  # a dict's own way sets item after item

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class ArrayCodec(Codec):
    """*length* elements, one behind the other; a list, or what *factory* makes of one."""

    def __init__(
        self, element: Codec, length: int, *, factory: Callable[[Iterable[Any]], Any] = list
    ) -> None:
        self.element = element
        self.length = length
        self.factory = factory
        self.size = element.size * length
        self.has_lock = element.has_lock
        self.is_reversible = element.is_reversible

    @functools.cached_property
    def mask(self) -> int:
        """Those of every element."""
        one = self.element.mask.to_bytes(self.element.size, "little")
        return int.from_bytes(one * self.length, "little")

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the elements."""
        if not self.size:
            return self.factory(())
        whole = data[at : at + self.size]
        return self.factory(self.element.decode_many(whole, self.element.size))

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take any sequence of just this length."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            text = f"a list of {self.length} was expected, not {value!r}"
            raise MisfitError(TypeError, text)
        if len(value) != self.length:
            raise MisfitError(ValueError, f"{len(value)} elements, not {self.length}")
        for index, part in enumerate(value):
            try:
                self.element.encode_into(part, data, at + index * self.element.size)
            except MisfitError as misfit:
                raise misfit.within(f"[{index}]") from None


@dataclass(frozen=True, slots=True)
class Part:
    """A member at byte *offset*; one without a name lends its own members to the whole."""

    name: str
    offset: int
    codec: Codec

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it puts into the whole."""
        if self.name:
            return (self.name,)
        return self.codec.names if isinstance(self.codec, RecordCodec) else ()

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to write: it takes room, and not just for the kernel."""
        is_empty = isinstance(self.codec, RecordCodec) and not self.codec.names
        return self.codec.size > 0 and not is_empty


class RecordCodec(Codec):
    """What structures and unions have in common: named parts."""

    def __init__(
        self,
        parts: Iterable[Part],
        size: int,
        *,
        factory: Callable[[Iterable[tuple[str, Any]]], dict[str, Any]] = dict,
    ) -> None:
        self.parts = tuple(part for part in parts if part.names)
        self.names = tuple(name for part in self.parts for name in part.names)
        if len(self.names) > MAX_MEMBERS:  # unnamed ones in one another may double them each time
            raise ObjectFileError(f"a structure of more than {MAX_MEMBERS} members")
        self.size = size
        self.has_lock = any(part.codec.has_lock for part in self.parts)
        is_each_once = len(set(self.names)) == len(self.names)  # not so in a damaged BTF
        self.is_reversible = is_each_once and all(one.codec.is_reversible for one in self.parts)
        self._factory = factory

    @functools.cached_property
    def mask(self) -> int:
        """Those of every member; the rest is padding."""
        found = 0
        for part in self.parts:
            found |= part.codec.mask << 8 * part.offset
        return found

    def decode(self, data: Buffer, at: int = 0) -> dict[str, Any]:
        """Return the members by name."""
        found: dict[str, Any] = {}
        for part in self.parts:
            value = part.codec.decode(data, at + part.offset)
            if part.name:
                found[part.name] = value
            else:
                found |= value
        return self._factory(found.items())

    def _check_names(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            members = ", ".join(self.names)
            raise MisfitError(TypeError, f"a dict of {members} was expected, not {value!r}")
        if unknown := [str(name) for name in value if name not in self.names]:
            text = f"there is no member {', '.join(unknown)}; there are {', '.join(self.names)}"
            raise MisfitError(ValueError, text)

    def _write(self, part: Part, value: Mapping[str, Any], data: bytearray, at: int) -> None:
        if not part.name:
            inner = {name: value[name] for name in part.names if name in value}
            part.codec.encode_into(inner, data, at + part.offset)
            return
        try:
            part.codec.encode_into(value[part.name], data, at + part.offset)
        except MisfitError as misfit:
            raise misfit.within(f".{part.name}") from None


class StructCodec(RecordCodec):
    """A structure: every member that takes room is wanted, padding is written as zeros."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take a mapping of all members."""
        self._check_names(value)
        for part in self.parts:
            if not part.name or part.name in value:
                self._write(part, value, data, at)
            elif part.is_wanted:
                raise MisfitError(ValueError, "the member is missing").within(f".{part.name}")


class UnionCodec(RecordCodec):
    """A union: all members read the same bytes."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take a mapping of one member or more that do not contradict each other."""
        self._check_names(value)
        given = [part for part in self.parts if any(name in value for name in part.names)]
        if not self.parts:
            return
        if not given:
            names = ", ".join(self.names)
            raise MisfitError(ValueError, f"one of {names} is wanted")
        images = [(part, self._image(part, value)) for part in given]
        data[at : at + self.size] = self._agreed(images)

    def _agreed(self, images: Sequence[tuple[Part, bytearray]]) -> Buffer:
        """Return the bytes that read as all members do; refuse where there are none."""
        merged = bytearray(self.size)
        for _, image in images:
            merged = bytearray(a | b for a, b in zip(merged, image, strict=True))
        for whole in (merged, *(image for _, image in images)):
            if not any(_differs(part, image, whole) for part, image in images):
                return whole
        part = next(part for part, image in images if _differs(part, image, merged))
        name = part.name or "/".join(part.names)
        raise MisfitError(ValueError, "contradicts another member").within(f".{name}")

    def _image(self, part: Part, value: Mapping[str, Any]) -> bytearray:
        image = bytearray(self.size)
        self._write(part, value, image, 0)
        return image


def _differs(part: Part, image: Buffer, whole: Buffer) -> bool:
    """Whether the member reads from *whole* as something else than was given in *image*."""
    again = bytearray(len(image))
    part.codec.encode_into(part.codec.decode(whole), again, 0)
    return again != image


# Structures whose members lie one behind the other: unpacked as a whole, many at once.


def record_codec(parts: Sequence[Part], size: int, **options: Any) -> StructCodec:
    """Return the fastest codec that reads a structure of these *parts*."""
    ends = [0, *(part.offset + part.codec.size for part in parts)]
    in_order = all(end <= part.offset for end, part in zip(ends, parts, strict=False))
    is_flat = in_order and parts and all(part.name and part.codec.letter for part in parts)
    return (FlatStructCodec if is_flat else StructCodec)(parts, size, **options)


class FlatStructCodec(StructCodec):
    """A structure of single items of the struct module."""

    def __init__(self, parts: Iterable[Part], size: int, **options: Any) -> None:
        super().__init__(parts, size, **options)
        self._form = struct.Struct(_form_of(self.parts, size))
        # For other items the struct module takes more than their codecs do.
        self._is_packed = all(type(part.codec) is ScalarCodec for part in self.parts)

    @cached_property
    def _made(self) -> Callable[[Rows], list[dict[str, Any]]]:
        return _dicts_of(self.parts, is_key=self._factory is KeyRecord)

    def decode(self, data: Buffer, at: int = 0) -> dict[str, Any]:
        """Return the members by name."""
        return self._made((self._form.unpack_from(data, at),))[0]

    def decode_many(self, data: Buffer, stride: int) -> Sequence[dict[str, Any]]:
        """Return all structures at once."""
        return self._made(padded_form(self._form.format, stride - self.size).iter_unpack(data))

    def encode(self, value: Any) -> bytes:
        """Return the bytes of *value*; `ValueError` or `TypeError` if it does not fit."""
        return self.encode_many((value,))

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all structures at once."""
        names, pack = self.names, self._form.pack
        if self._is_packed and all(map(self._has_all, values)):
            try:
                return b"".join([pack(*[value[name] for name in names]) for value in values])
            except (struct.error, OverflowError, LookupError):
                pass  # the codec of the member says which one does not fit
        return b"".join(map(super().encode, values))

    def _has_all(self, value: Any) -> bool:
        return isinstance(value, dict) and len(value) == len(self.names)


def _form_of(parts: Sequence[Part], size: int) -> str:
    form, end = "<", 0
    for part in parts:
        form += f"{part.offset - end}x{part.codec.letter}"
        end = part.offset + part.codec.size
    return f"{form}{size - end}x"


def _dicts_of(parts: Sequence[Part], *, is_key: bool) -> Callable[[Rows], list[dict[str, Any]]]:
    """Return the function that makes a dict of each row, with what its items are shown as.

    It is put together as text, as `collections.namedtuple` does: a display that names the members
    takes two thirds of the time of any call that is given them. The names are quoted.
    """
    names = {f"shown{at}": part.codec.shown for at, part in enumerate(parts)}
    items = "".join(f"item{at}, " for at in range(len(parts)))
    members = ", ".join(
        f"{part.name!r}: " + (f"shown{at}(item{at})" if part.codec.shown else f"item{at}")
        for at, part in enumerate(parts)
    )
    record = f"Record({{{members}}})" if is_key else f"{{{members}}}"
    made: Callable[[Rows], list[dict[str, Any]]] = eval(
        f"lambda rows: [{record} for {items}in rows]", {**names, "Record": KeyRecord}
    )
    return made
