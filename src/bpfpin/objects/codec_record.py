"""Arrays, structures and unions, put together from the codecs of their parts."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bpfpin.objects.codec import Buffer, Codec, MisfitError, ScalarCodec, padded_form


class Record(dict[str, Any]):
    """A structure that is a key: a dict that cannot change and can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none because it can change
        return hash(frozenset(self.items()))

    def _refuse(self, *_arguments: object, **_members: object) -> NoReturn:
        raise TypeError("a key cannot be changed; dict(key) makes a copy that can")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class ArrayCodec(Codec):
    """*length* elements, one behind the other; a list, or what *factory* makes of one."""

    def __init__(
        self, element: Codec, length: int, *, factory: Callable[[Iterable[Any]], Any] = list
    ) -> None:
        self.element = element
        self.length = length
        self._factory = factory
        self.size = element.size * length

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the elements."""
        if not self.size:
            return self._factory(())
        whole = data[at : at + self.size]
        return self._factory(self.element.decode_many(whole, self.element.size))

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take any sequence of just this length."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise MisfitError(TypeError, f"a list was expected, not {value!r}")
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
        self.size = size
        self._factory = factory

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
    """A structure: every member is wanted, padding is written as zeros."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take a mapping of all members."""
        self._check_names(value)
        for part in self.parts:
            if part.name and part.name not in value:
                raise MisfitError(ValueError, "the member is missing").within(f".{part.name}")
            self._write(part, value, data, at)


class FlatStructCodec(StructCodec):
    """A structure of plain numbers: unpacked as a whole, many at once."""

    def __init__(self, parts: Iterable[Part], size: int, **options: Any) -> None:
        super().__init__(parts, size, **options)
        self._form = struct.Struct(_form_of(self.parts, size))

    def decode(self, data: Buffer, at: int = 0) -> dict[str, Any]:
        """Return the members by name."""
        return self._factory(zip(self.names, self._form.unpack_from(data, at), strict=True))

    def decode_many(self, data: Buffer, stride: int) -> Sequence[dict[str, Any]]:
        """Return all structures at once."""
        form = padded_form(self._form.format, stride - self.size)
        names, factory = self.names, self._factory
        return [factory(zip(names, row)) for row in form.iter_unpack(data)]  # noqa: B905  (as long as the form; the check costs a tenth)


def _form_of(parts: Sequence[Part], size: int) -> str:
    form, end = "<", 0
    for part in parts:
        assert isinstance(part.codec, ScalarCodec)
        form += f"{part.offset - end}x{part.codec.letter}"
        end = part.offset + part.codec.size
    return f"{form}{size - end}x"


class UnionCodec(RecordCodec):
    """A union: all members read the same bytes."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take a mapping of one member or more that do not contradict each other."""
        self._check_names(value)
        given = [part for part in self.parts if any(name in value for name in part.names)]
        if not given:
            names = ", ".join(self.names)
            raise MisfitError(ValueError, f"one of {names} is wanted")
        images = [(part, self._image(part, value)) for part in given]
        merged = bytearray(self.size)
        for _, image in images:
            merged = bytearray(a | b for a, b in zip(merged, image, strict=True))
        for part, image in images:
            self._check_agreement(part, image, merged)
        data[at : at + self.size] = merged

    def _image(self, part: Part, value: Mapping[str, Any]) -> bytearray:
        image = bytearray(self.size)
        self._write(part, value, image, 0)
        return image

    def _check_agreement(self, part: Part, image: Buffer, merged: Buffer) -> None:
        """Refuse a member that would read back as something else than was given."""
        again = bytearray(self.size)
        part.codec.encode_into(part.codec.decode(merged), again, 0)
        if again != image:
            name = part.name or "/".join(part.names)
            raise MisfitError(ValueError, "contradicts another member").within(f".{name}")
