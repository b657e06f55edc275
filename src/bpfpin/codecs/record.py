"""Codecs of arrays, structures and unions, made of the codecs of their elements and members."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

from bpfpin.btf.layout import MAX_MEMBERS
from bpfpin.codecs.codec import Buffer, Codec, MisfitError, ScalarCodec, padded_form
from bpfpin.errors import ObjectFileError
from bpfpin.records import dataclass

Rows = Iterable[tuple[Any, ...]]


class KeyRecord(dict[str, Any]):
    """A structure in a key: an immutable dict that can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none because it can change
        # Without order, because dicts are equal whatever the order of their members is.
        return hash(frozenset(self.items()))

    def _refuse(self, *_arguments: object, **_members: object) -> NoReturn:
        raise TypeError("a key cannot be changed; dict(key) makes a copy that can be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return KeyRecord, (dict(self),)  # a pickled dict would be filled with `__setitem__`

    # Every method of dict that changes it is replaced, because a hash must not change.
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class ArrayCodec(Codec):
    """An array of *length* elements; its value is a list, or what *factory* makes of one."""

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
        """The bits of every element."""
        element_mask = self.element.mask.to_bytes(self.element.size, "little")
        return int.from_bytes(element_mask * self.length, "little")

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the elements."""
        # Arrays of length 0, and of empty structures: a stride of 0 would be an error.
        if not self.size:
            return self.factory(())
        whole = data[at : at + self.size]
        return self.factory(self.element.decode_many(whole, self.element.size))

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a sequence of exactly this length."""
        # A text is a sequence of texts, and its error would be about its first letter.
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
    """A member at byte *offset*; the members of an unnamed one belong to the whole structure."""

    name: str
    offset: int
    codec: Codec

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it adds to the structure."""
        if self.name:
            return (self.name,)
        return self.codec.names if isinstance(self.codec, RecordCodec) else ()

    @property
    def is_wanted(self) -> bool:
        """Whether it must be given for writing: it has a size and members beside the kernel's."""
        is_empty = isinstance(self.codec, RecordCodec) and not self.codec.names
        return self.codec.size > 0 and not is_empty


class RecordCodec(Codec):
    """Base of `StructCodec` and `UnionCodec`: named parts."""

    def __init__(
        self,
        parts: Iterable[Part],
        size: int,
        *,
        factory: Callable[[Iterable[tuple[str, Any]]], dict[str, Any]] = dict,
    ) -> None:
        self.parts = tuple(part for part in parts if part.names)
        self.names = tuple(name for part in self.parts for name in part.names)
        if len(self.names) > MAX_MEMBERS:  # each level of unnamed members may double them
            raise ObjectFileError(f"a structure of more than {MAX_MEMBERS} members")
        self.size = size
        self.has_lock = any(part.codec.has_lock for part in self.parts)
        is_unique = len(set(self.names)) == len(self.names)  # false in damaged BTF only
        self.is_reversible = is_unique and all(part.codec.is_reversible for part in self.parts)
        self._factory = factory

    @functools.cached_property
    def mask(self) -> int:
        """The bits of every member; the rest is padding."""
        mask = 0
        for part in self.parts:
            mask |= part.codec.mask << 8 * part.offset
        return mask

    def decode(self, data: Buffer, at: int = 0) -> dict[str, Any]:
        """Return the members by name."""
        members: dict[str, Any] = {}
        for part in self.parts:
            value = part.codec.decode(data, at + part.offset)
            if part.name:
                members[part.name] = value
            else:
                members |= value
        return self._factory(members.items())

    def _check_names(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            members = ", ".join(self.names)
            raise MisfitError(TypeError, f"a dict of {members} was expected, not {value!r}")
        if unknown := [str(name) for name in value if name not in self.names]:
            text = f"no member {', '.join(unknown)}; the members are {', '.join(self.names)}"
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
    """A structure: every member with a size must be given, padding is written as zeros."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a mapping of all members."""
        self._check_names(value)
        for part in self.parts:
            if not part.name or part.name in value:
                self._write(part, value, data, at)
            # A missing member is not taken for 0: an update replaces the whole value in the map.
            elif part.is_wanted:
                raise MisfitError(ValueError, "the member is missing").within(f".{part.name}")


class UnionCodec(RecordCodec):
    """A union: all members are decoded from the same bytes."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a mapping of one or more members that do not contradict each other."""
        self._check_names(value)
        given = [part for part in self.parts if any(name in value for name in part.names)]
        if not self.parts:
            return
        if not given:
            names = ", ".join(self.names)
            raise MisfitError(ValueError, f"one of {names} must be given")
        images = [(part, self._image(part, value)) for part in given]
        data[at : at + self.size] = self._agreed(images)

    def _agreed(self, images: Sequence[tuple[Part, bytearray]]) -> Buffer:
        """Return bytes that decode to every given member; `MisfitError` if there are none."""
        # Members may leave padding to others, so the images are merged first. An image by itself is
        # right if merging changes a value, as with a `_Bool` that shares a byte with a number.
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
    """Whether the member decoded from *whole* differs from the one encoded in *image*."""
    again = bytearray(len(image))
    part.codec.encode_into(part.codec.decode(whole), again, 0)
    return again != image


def record_codec(parts: Sequence[Part], size: int, **options: Any) -> StructCodec:
    """Return the fastest codec for a structure of these *parts*."""
    # Flat: scalars in the order of their offsets, without overlap, so that one struct format fits.
    ends = [0, *(part.offset + part.codec.size for part in parts)]
    in_order = all(end <= part.offset for end, part in zip(ends, parts, strict=False))
    is_flat = in_order and parts and all(part.name and part.codec.letter for part in parts)
    return (FlatStructCodec if is_flat else StructCodec)(parts, size, **options)


class FlatStructCodec(StructCodec):
    """A structure of scalars, decoded with one struct format, many rows at once."""

    def __init__(self, parts: Iterable[Part], size: int, **options: Any) -> None:
        super().__init__(parts, size, **options)
        self._form = struct.Struct(_form_of(self.parts, size))
        # Other codecs check more than the struct module does, which accepts any object as `?`.
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
                pass  # the member's codec below raises an error that names the member
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
    """Return a function that makes a dict of each row, its items converted by `shown`.

    The function is compiled from text, as in `collections.namedtuple`: a dict display with constant
    names takes two thirds of the time of `dict(zip(names, row))`. Names are quoted with `repr`.
    """
    names = {f"shown{at}": part.codec.shown for at, part in enumerate(parts)}
    items = "".join(f"item{at}, " for at in range(len(parts)))
    members = ", ".join(
        f"{part.name!r}: " + (f"shown{at}(item{at})" if part.codec.shown else f"item{at}")
        for at, part in enumerate(parts)
    )
    record = f"KeyRecord({{{members}}})" if is_key else f"{{{members}}}"
    made: Callable[[Rows], list[dict[str, Any]]] = eval(
        f"lambda rows: [{record} for {items}in rows]", {**names, "KeyRecord": KeyRecord}
    )
    return made
