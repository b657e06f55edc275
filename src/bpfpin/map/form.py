"""How a typed word becomes a key or a value: by the codec of the map, or as a literal.

A literal is a word for a few bytes that the codec itself does not read: an address, a prefix, a
device, a verdict.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.types import Enum
from bpfpin.codecs.codec import BytesCodec, Codec, TextCodec
from bpfpin.codecs.number import MappedCodec
from bpfpin.codecs.prefix import is_prefix, prefix_key
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import UsageError
from bpfpin.records import dataclass
from bpfpin.uapi import XdpAction

HEX: Final = "hex:"
# More untyped bytes are a structure rather than a number (BTF knows integers of 16 bytes).
MAX_INTEGER_BYTES: Final = 8
_TRUTHS: Final = {"true": 1, "false": 0}
_IFINDEX: Final = "ifindex"
_IFINDEX_BYTES: Final = 4
_NAMES_SHOWN: Final = 8
_SAMPLE_LENGTH_MAX: Final = 200  # of JSON in a hint
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}")
_ESCAPE: Final = re.compile(r"\\x([0-9a-fA-F]{2})")
_ESCAPE_BYTES: Final = re.compile(_ESCAPE.pattern.encode())

# Returns the bytes that a word stands for, as many as asked for; None if it is not such a word.
Literal = Callable[[str, int], bytes | None]


def number(text: str) -> int | None:
    """Return the integer that *text* stands for (`7`, `-7`, `0x1f`, `true`), else None."""
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
    """Return the bytes of an IPv4, IPv6 or MAC address in network order."""
    # In network order, as programs compare it: they take the address from the packet as it is.
    data = bytes.fromhex(re.sub("[:-]", "", text)) if _MAC.fullmatch(text) else _ip(text)
    return data if data is not None and len(data) == size else None


def prefix(text: str, size: int) -> bytes | None:
    """Return the key of an LPM trie for `10.0.0.1/24`; without a length all bits count."""
    codec = BytesCodec(size)
    try:
        return bytes(prefix_key(text, codec)) if is_prefix(codec) else None
    except ValueError:
        return None


def device(text: str, size: int) -> bytes | None:
    """Return the ifindex of a device of this network namespace, followed by zeros."""
    if size < _IFINDEX_BYTES:
        return None
    try:
        # The zeros after it mean that no program runs after a redirect (`bpf_prog.fd` of struct
        # bpf_devmap_val, __dev_map_alloc_node() in kernel/bpf/devmap.c).
        return socket.if_nametoindex(text).to_bytes(size, "little")
    except (OSError, ValueError):
        return None


def verdict(text: str, size: int) -> bytes | None:
    """Return the number of an XDP action such as `XDP_DROP`, in *size* bytes."""
    member = XdpAction.__members__.get(text)
    return int(member).to_bytes(size, "little") if member is not None and size else None


def action(text: str, size: int) -> bytes | None:
    """Return the number of an XDP action, also written `drop`, in any case, in *size* bytes."""
    name = text.upper()
    return verdict(name, size) or verdict(f"XDP_{name}", size)


def _ip(text: str) -> bytes | None:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return None


# How an error names the literals that are accepted.
FORMS: Final[dict[Literal, str]] = {
    address: "an address",
    prefix: "10.0.0.1/24",
    device: "a device",
    verdict: "XDP_PASS",
    action: f"a verdict ({', '.join(verdict.name for verdict in XdpAction)})",
}


def escaped(text: str) -> str:
    r"""Return *text* without surrogates: a byte that is not UTF-8 becomes `\xff`.

    A backslash that would read as such an escape becomes `\x5c`, so that `unescaped` is exact.
    """
    # First the backslashes that are in the text, then the new ones: else both would read alike.
    text = _ESCAPE.sub(lambda match: rf"\x5cx{match[1]}", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(map(_escaped_surrogate, text))
    return text


def _escaped_surrogate(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, by the error handler "surrogateescape" (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else character


def unescaped(text: str) -> bytes:
    """Return the bytes of a text with the escapes of `escaped`."""
    # Words of a command line that are not UTF-8 have surrogates too (PEP 383).
    raw = text.encode(errors="surrogateescape")
    return _ESCAPE_BYTES.sub(lambda match: bytes.fromhex(match[1].decode()), raw)


def is_escaped(text: str) -> bool:
    """Whether *text* has escapes."""
    return bool(_ESCAPE.search(text))


@dataclass(frozen=True, slots=True)
class InputForm:
    """How one word is read: *what* names it in errors, *ref* is its type if known.

    *literals* are the words that it may be apart from those of its codec, the likeliest first.
    """

    codec: Codec
    ref: TypeRef | None = None
    what: str = "value"
    literals: tuple[Literal, ...] = (address,)

    @property
    def names(self) -> tuple[str, ...]:
        """The members of a structure, none for anything else."""
        return self.codec.names if isinstance(self.codec, RecordCodec) else ()

    def opened(self) -> InputForm:
        """Return the form of a structure that reads as one word, such as the key of an LPM trie."""
        is_word = isinstance(self.codec, MappedCodec)
        origin = self.codec.origin if isinstance(self.codec, MappedCodec) else self.codec
        return replace(self, codec=origin) if is_word and isinstance(origin, RecordCodec) else self

    @property
    def is_untyped(self) -> bool:
        """Whether it is bytes without a type."""
        return isinstance(self.codec, BytesCodec) and not isinstance(self.codec, TextCodec)

    @property
    def may_be_number(self) -> bool:
        """Whether it is not a structure, an array or a text."""
        return not isinstance(self.codec, RecordCodec | ArrayCodec | TextCodec)

    def of_member(self, name: str) -> InputForm:
        """Return the form of a member of a structure; `UsageError` lists the members."""
        codec = _member(self.codec, name)
        if codec is None:
            fields = ", ".join(self.names) or "none"
            raise UsageError(f"{self.what}: there is no field {name!r}; the fields are: {fields}")
        # `ifindex`, `ingress_ifindex`: members of this name hold the index of a device.
        more = (device,) if _IFINDEX in name else ()
        return InputForm(codec, None, f"{self.what}.{name}", (address, *more))

    def of_element(self, index: int) -> InputForm:
        """Return the form of an element of an array; `UsageError` if the array is shorter."""
        length = self.codec.length if isinstance(self.codec, ArrayCodec) else 0
        if not isinstance(self.codec, ArrayCodec) or not 0 <= index < length:
            raise UsageError(f"{self.what}: there is no element [{index}]; it has {length}")
        return InputForm(self.codec.element, None, f"{self.what}[{index}]")

    def with_first(self, *more: Literal) -> InputForm:
        """Return the form with more literals, before the present ones."""
        return replace(self, literals=(*more, *self.literals))

    def with_last(self, *more: Literal) -> InputForm:
        """Return the form with more literals, after the present ones."""
        return replace(self, literals=(*self.literals, *more))

    def refused(self, text: str) -> UsageError:
        """Return the error for a word that cannot be read, with the forms that can."""
        hint = f"give {self.forms()}"
        if self.ref is not None and not isinstance(self.codec, TextCodec):
            more = f": {self._reason(text)}" if self.opened() is not self else ""
            message = f"{self.what} {text!r} is not of type {c_type(self.ref)}{more}"
            return UsageError(message, hint=hint)
        if not self.is_untyped:
            return UsageError(f"{self.what} {text!r} does not fit: {self._reason(text)}", hint=hint)
        size = self.codec.size
        message = (
            f"{self.what} {text!r} does not fit {size} bytes without a type (the map has no BTF)"
        )
        return UsageError(message, hint=hint)

    def _reason(self, text: str) -> str:
        """Return why the codec does not accept *text*."""
        try:
            # The codec's own reason, such as a range: the word has been refused before.
            self.codec.encode(text)
        except (TypeError, ValueError) as error:
            return str(error)
        return "it is something else"

    def forms(self) -> str:
        """Return the forms that are accepted, as an error lists them."""
        size = self.codec.size
        sample = f"{HEX}{'00' * min(size, 4)}{'…' if size > 4 else ''} ({size} bytes)"
        named = [FORMS[literal] for literal in self.literals if literal is not address]
        listed = [*self._own_forms(), *named]
        return f"{', '.join(listed)}, or {sample}" if listed else sample

    def _own_forms(self) -> list[str]:
        size = self.codec.size
        if isinstance(self.codec, TextCodec):
            return [f"a text of at most {size} bytes"]
        if names := self._enumerators():
            cut = ["…"] if len(names) > _NAMES_SHOWN else []
            return [f"one of {', '.join([*names[:_NAMES_SHOWN], *cut])}", "an integer"]
        if self.names:
            return [self._sample_record(), f"{self.names[0]}=1,…"]
        if isinstance(self.codec, ArrayCodec):
            return [f"JSON with a list of {self.codec.length}"]
        return ["an integer"] if size <= MAX_INTEGER_BYTES else []

    def _sample_record(self) -> str:
        """Return JSON with every member that must be given, or the members if that is long."""
        value = self.codec.decode(bytes(self.codec.size))
        try:
            self.codec.encode(value)
            text = json.dumps(value)
        except (TypeError, ValueError):  # such as an address, which JSON has no word for
            text = ""
        if text and len(text) <= _SAMPLE_LENGTH_MAX:
            return f"JSON like {shlex.quote(text)}"
        cut = ["…"] if len(self.names) > _NAMES_SHOWN else []
        return f"JSON with the members {', '.join([*self.names[:_NAMES_SHOWN], *cut])}"

    def _enumerators(self) -> list[str]:
        kind = self.ref.stripped if self.ref else None
        return [value.name for value in kind.values] if isinstance(kind, Enum) else []


def _member(whole: Codec, name: str) -> Codec | None:
    if not isinstance(whole, RecordCodec) or name not in whole.names:
        return None
    part = next(part for part in whole.parts if name in part.names)
    return part.codec if part.name else _member(part.codec, name)
