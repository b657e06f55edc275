"""Codecs for maps without BTF, described by the caller: struct formats, ctypes, NamedTuples."""

from __future__ import annotations

import ctypes
import functools
import re
import struct
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from bpfpin.codecs.codec import Buffer, Codec, MisfitError

_ORDERS = "@=<>!"
_ITEM = re.compile(r"(\d*)([a-zA-Z?])")
# Items that give the same bytes again when packed: all but padding, booleans and floats.
_AS_READ = re.compile(r"[@=<>!]?[\s\dbBhHiIlLqQnNPsc]*")
CtypesType = type[ctypes.Structure] | type[ctypes.Union]


def format_codec(form: Any, size: int | None, *, is_key: bool = False) -> Codec:
    """Return the codec that *form* describes.

    Args:
        form: A format of the struct module (`"I"` gives a number, `"QQ"` a tuple), a subclass of
            `ctypes.Structure` or `ctypes.Union`, or a `NamedTuple` whose fields are
            `Annotated[int, "Q"]`.
        size: The size that it must have, in bytes; None for any.
        is_key: Decode ctypes structures as a subclass that compares and hashes by its bytes.

    Returns:
        The codec.

    Raises:
        ValueError: The format has another size.
        TypeError: A field of the `NamedTuple` is not annotated.
    """
    if isinstance(form, type) and issubclass(form, ctypes.Structure | ctypes.Union):
        made: Codec = CtypesCodec(form, _hashable(form) if is_key else form)
    elif isinstance(form, type) and issubclass(form, tuple):
        made = FormatCodec(_named_form(form), factory=form._make, names=form._fields)  # type: ignore[attr-defined]  # a NamedTuple
    else:
        made = FormatCodec(form.format if isinstance(form, struct.Struct) else form)
    if size is not None and made.size != size:
        hint = "; padding at the end is written out, as in 'QI4x'"
        raise ValueError(f"the format takes {made.size} bytes, the map's {size}{hint}")
    return made


def _named_form(kind: type[tuple[Any, ...]]) -> str:
    hints = get_type_hints(kind, include_extras=True)
    fields = {name: hint for name, hint in hints.items() if name in getattr(kind, "_fields", ())}
    plain = [name for name, hint in fields.items() if get_origin(hint) is not Annotated]
    if plain or not fields:
        raise TypeError(f'{kind.__name__}: write each field as Annotated[int, "Q"]: {plain}')
    return "".join(get_args(hint)[1] for hint in fields.values())


def _unpadded(form: str) -> int:
    """Return the size of the items alone, without padding for alignment between them."""
    order = "=" if form[:1] not in ("<", ">", "!") else form[0]
    try:
        return struct.calcsize(order + form.lstrip(_ORDERS))
    except struct.error:  # `P`, `n` and `N` exist in the native mode only
        return struct.calcsize(form)


class FormatItem(NamedTuple):
    """One item of a format: its letter, the byte where it starts, its size and its byte order."""

    letter: str
    offset: int
    size: int
    order: str


class FormatCodec(Codec):
    """A format of the struct module: a single item as its value, several as a tuple."""

    def __init__(self, form: str, *, factory: Any = None, names: Sequence[str] = ()) -> None:
        self._form = struct.Struct(form)
        self.size = self._form.size
        # Padding, booleans and floats may change their bytes when they are decoded and encoded.
        self.is_reversible = bool(_AS_READ.fullmatch(form)) and self.size == _unpadded(form)
        count = len(self._form.unpack(bytes(self.size)))
        self.is_single = count == 1 and factory is None
        self.names = names
        self._factory = factory

    @property
    def format(self) -> str:
        """The format."""
        return self._form.format

    @functools.cached_property
    def items(self) -> list[FormatItem]:
        """The items, padding left out."""
        # The struct module allows spaces between items.
        text = "".join(self.format.split())
        prefix = text[0] if text[0] in _ORDERS else "@"
        order = ">" if prefix in ">!" else "<"
        items, before = [], prefix
        for count, letter in _ITEM.findall(text.lstrip(_ORDERS)):
            times = 1 if letter in "sp" or not count else int(count)
            item = f"{count}{letter}" if letter in "sp" else letter
            for _ in range(times):
                before += item
                size = struct.calcsize(prefix + item)
                # The end of an item minus its size is its start, after alignment.
                if letter != "x":
                    items.append(FormatItem(letter, struct.calcsize(before) - size, size, order))
        return items

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the number, the tuple, or the result of the factory."""
        items = self._form.unpack_from(data, at)
        if self.is_single:
            return items[0]
        return self._factory(items) if self._factory else items

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a number, or a tuple of as many items as the format has."""
        items = (value,) if self.is_single else value
        try:
            self._form.pack_into(data, at, *items)
        except (struct.error, OverflowError, TypeError) as error:
            text = f"{value!r} does not fit {self._form.format!r}: {error}"
            raise MisfitError(ValueError, text) from error


def _hashable(kind: CtypesType) -> Any:
    """Return a subclass for keys; ctypes structures themselves compare by identity."""
    # ctypes structures are mutable; a subclass with __hash__ lets keys be used in a dict, as long
    # as the caller does not change them.
    return type(
        kind.__name__,
        (kind,),
        {
            "__eq__": lambda this, other: isinstance(other, kind) and bytes(this) == bytes(other),
            "__hash__": lambda this: hash(bytes(this)),
        },
    )


class CtypesCodec(Codec):
    """A ctypes structure; each value is a copy."""

    def __init__(self, kind: CtypesType, made: CtypesType) -> None:
        self.kind = kind
        self._made = made
        self.size = ctypes.sizeof(kind)

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return a new structure with these bytes."""
        return self._made.from_buffer_copy(data, at)

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a structure of that type."""
        if not isinstance(value, self.kind):
            raise MisfitError(TypeError, f"a {self.kind.__name__} was expected, not {value!r}")
        data[at : at + self.size] = bytes(value)
