"""What a typed word is to be: its codec, and how it may be written."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.types import Enum
from bpfpin.codecs.codec import BytesCodec, Codec, TextCodec
from bpfpin.codecs.number import MappedCodec
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.prefix import is_prefix, prefix_key
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import UsageError
from bpfpin.uapi import XdpAction

HEX: Final = "hex:"
_TRUTHS: Final = {"true": 1, "false": 0}
_IFINDEX_BYTES: Final = 4
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}")
Literal = Callable[[str, int], bytes | None]
MAX_INTEGER_BYTES: Final = 8
_NAMES_SHOWN: Final = 8
_IFINDEX: Final = "ifindex"


# What people write in one word for a few bytes: numbers, addresses, devices, verdicts.

"""Returns the bytes, as many as asked for, that a word stands for; None if it is no such word."""


def number(text: str) -> int | None:
    """Return the integer that *text* is (`7`, `-7`, `0x1f`, `true`), None if it is none."""
    try:
        return _TRUTHS[text] if text in _TRUTHS else int(text, 0)
    except ValueError:
        return None


def hex_bytes(text: str, size: int, *, what: str = "value") -> bytes:
    """Return the bytes of `hex:0a00…`; `UsageError` unless there are *size* of them."""
    try:
        data = bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise UsageError(f"{what} {text!r} is not hexadecimal after {HEX!r}") from None
    if len(data) != size:
        raise UsageError(f"{what} {text!r} has {len(data)} bytes; the map's takes {size}")
    return data


def address(text: str, size: int) -> bytes | None:
    """Return the bytes of an IPv4, IPv6 or MAC address as packets carry them."""
    data = bytes.fromhex(re.sub("[:-]", "", text)) if _MAC.fullmatch(text) else _ip(text)
    return data if data is not None and len(data) == size else None


def prefix(text: str, size: int) -> bytes | None:
    """Return the key of an LPM trie for `10.0.0.1/24`; an address alone is a prefix of all bits."""
    codec = BytesCodec(size)
    try:
        return bytes(prefix_key(text, codec)) if is_prefix(codec) else None
    except ValueError:
        return None


def device(text: str, size: int) -> bytes | None:
    """Return the ifindex of a device of this network namespace; what follows it is zero."""
    if size < _IFINDEX_BYTES:
        return None
    try:
        return socket.if_nametoindex(text).to_bytes(size, "little")
    except (OSError, ValueError):
        return None


def verdict(text: str, size: int) -> bytes | None:
    """Return the number of `XDP_DROP` and its like in *size* bytes."""
    found = XdpAction.__members__.get(text)
    return int(found).to_bytes(size, "little") if found is not None and size else None


def action(text: str, size: int) -> bytes | None:
    """Return the number of `XDP_DROP`, `drop` and its like, in any case, in *size* bytes."""
    name = text.upper()
    return verdict(name, size) or verdict(f"XDP_{name}", size)


def _ip(text: str) -> bytes | None:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return None


_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


def escaped(text: str) -> str:
    r"""Return *text* without surrogates: a byte that is no UTF-8 as `\xff`.

    A backslash that begins what looks like one becomes `\x5c`, so that `unescaped` gives *text*.
    """
    text = _ESCAPE.sub(lambda match: rf"\x5cx{match[1]}", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(map(_escaped_surrogate, text))
    return text


def _escaped_surrogate(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # as the error handler "surrogateescape" keeps a byte
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else character


def unescaped(text: str) -> bytes:
    """Return the bytes that a text with escapes of `escaped` stands for."""
    raw = text.encode(errors="surrogateescape")
    return _ESCAPE_BYTES.sub(lambda match: bytes.fromhex(match[1].decode()), raw)


_ESCAPE_BYTES = re.compile(_ESCAPE.pattern.encode())


def is_escaped(text: str) -> bool:
    """Whether `unescaped` has something to do."""
    return bool(_ESCAPE.search(text))


FORMS: Final[dict[Literal, str]] = {
    address: "an address",
    prefix: "10.0.0.1/24",
    device: "a device",
    verdict: "XDP_PASS",
    action: f"a verdict ({', '.join(one.name for one in XdpAction)})",
}

"""How the help of an error names each."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a word is to be: *what* names it in errors, *ref* is its type if one is known.

    *literals* are the words that it may be beside those of its codec, the likeliest first.
    """

    codec: Codec
    ref: TypeRef | None = None
    what: str = "value"
    literals: tuple[Literal, ...] = (address,)

    @classmethod
    def of_type(cls, ref: TypeRef | None, size: int, *, what: str = "value") -> Form:
        """Return the form of a value of *size* bytes and type *ref*, bytes for None."""
        return cls(codec(ref, size), ref, what)

    @property
    def names(self) -> tuple[str, ...]:
        """The members of a structure, none for anything else."""
        return self.codec.names if isinstance(self.codec, RecordCodec) else ()

    def opened(self) -> Form:
        """Return the form of the structure that reads as one word, such as an LPM trie's key."""
        is_word = isinstance(self.codec, MappedCodec)
        origin = self.codec.origin if isinstance(self.codec, MappedCodec) else self.codec
        return replace(self, codec=origin) if is_word and isinstance(origin, RecordCodec) else self

    @property
    def is_untyped(self) -> bool:
        """Whether it is bytes without a type."""
        return isinstance(self.codec, BytesCodec) and not isinstance(self.codec, TextCodec)

    @property
    def may_be_number(self) -> bool:
        """Whether it is no structure, array or text."""
        return not isinstance(self.codec, RecordCodec | ArrayCodec | TextCodec)

    def of_member(self, name: str) -> Form:
        """Return the form of a member of a structure; `UsageError` names those there are."""
        found = _member(self.codec, name)
        if found is None:
            there = ", ".join(self.names) or "none"
            raise UsageError(f"{self.what}: there is no field {name!r}; the fields are: {there}")
        more = (device,) if _IFINDEX in name else ()
        return Form(found, None, f"{self.what}.{name}", (address, *more))

    def of_element(self, index: int) -> Form:
        """Return the form of an element of an array; `UsageError` if it is not that long."""
        length = self.codec.length if isinstance(self.codec, ArrayCodec) else 0
        if not isinstance(self.codec, ArrayCodec) or not 0 <= index < length:
            raise UsageError(f"{self.what}: there is no element [{index}]; it has {length}")
        return Form(self.codec.element, None, f"{self.what}[{index}]")

    def also(self, *more: Literal) -> Form:
        """Return the form with more words that it may be, before those it has."""
        return replace(self, literals=(*more, *self.literals))

    def at_last(self, *more: Literal) -> Form:
        """Return the form with more words that it may be, after those it has."""
        return replace(self, literals=(*self.literals, *more))

    def refused(self, text: str) -> UsageError:
        """Return the error for a word that is nothing of the kind, with the forms that go."""
        hint = f"give {self.forms()}"
        if self.ref is not None and not isinstance(self.codec, TextCodec):
            more = f": {self._reason(text)}" if self.opened() is not self else ""
            return UsageError(f"{self.what} {text!r} is no {c_type(self.ref)}{more}", hint=hint)
        if not self.is_untyped:
            return UsageError(f"{self.what} {text!r} does not fit: {self._reason(text)}", hint=hint)
        size = self.codec.size
        message = (
            f"{self.what} {text!r} does not fit {size} bytes without a type (the map has no BTF)"
        )
        return UsageError(message, hint=hint)

    def _reason(self, text: str) -> str:
        """Return what the codec says of a text that it does not take."""
        try:
            self.codec.encode(text)
        except (TypeError, ValueError) as error:
            return str(error)
        return "it is something else"

    def forms(self) -> str:
        """Return the forms that go, as an error lists them."""
        size = self.codec.size
        sample = f"{HEX}{'00' * min(size, 4)}{'…' if size > 4 else ''} ({size} bytes)"
        named = [FORMS[one] for one in self.literals if one is not address]
        told = [*self._own_forms(), *named]
        return f"{', '.join(told)}, or {sample}" if told else sample

    def _own_forms(self) -> list[str]:
        size = self.codec.size
        if isinstance(self.codec, TextCodec):
            return [f"a text of at most {size} bytes"]
        if names := self._enumerators():
            cut = ["…"] if len(names) > _NAMES_SHOWN else []
            return [f"one of {', '.join([*names[:_NAMES_SHOWN], *cut])}", "an integer"]
        if self.names:
            return [f'JSON like {{"{self.names[0]}": 1}}', f"{self.names[0]}=1,…"]
        if isinstance(self.codec, ArrayCodec):
            return [f"JSON with a list of {self.codec.length}"]
        return ["an integer"] if size <= MAX_INTEGER_BYTES else []

    def _enumerators(self) -> list[str]:
        kind = self.ref.stripped if self.ref else None
        return [value.name for value in kind.values] if isinstance(kind, Enum) else []


def _member(whole: Codec, name: str) -> Codec | None:
    if not isinstance(whole, RecordCodec) or name not in whole.names:
        return None
    part = next(part for part in whole.parts if name in part.names)
    return part.codec if part.name else _member(part.codec, name)
