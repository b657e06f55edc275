"""Random C structures, with values and the C that writes and compares them member by member.

What the compiler makes of them is the truth that codecs are held against.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Leaf = tuple[str, str]  # the place in C, and the literal that is there

HEAD = """
typedef _Bool bool;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
typedef unsigned long long u64; typedef __int128 s128; typedef unsigned __int128 u128;
typedef u32 twice_typed; typedef twice_typed thrice_typed;
#define SEC(name) __attribute__((section(name), used))
static void *(*lookup)(void *map, const void *key) = (void *)1;
char _license[] SEC("license") = "GPL";
"""


class Node:
    """A type: how it is declared, what values it has, and where their scalars stand in C."""

    def declare(self, name: str) -> str:
        """Return the declaration of *name*."""
        raise NotImplementedError

    def value(self, rng: random.Random) -> Any:
        """Return a value as Python writes it; of a union, that of one member."""
        raise NotImplementedError

    def leaves(self, place: str, value: Any) -> Iterator[Leaf]:
        """Yield the scalars of *value* in the variable *place*."""
        raise NotImplementedError

    def agrees(self, value: Any, read: Any) -> bool:
        """Whether *read* is what was written."""
        return bool(value == read)


@dataclass(frozen=True)
class Scalar(Node):
    """A number, a pointer, a name; *bits* is the width of a bit-field."""

    c_type: str
    draw: Callable[[random.Random], Any]
    literal: Callable[[Any], str] = str
    via: str = ""
    bits: int = 0

    def declare(self, name: str) -> str:
        """Return the declaration of *name*."""
        return f"{self.c_type} {name}" + (f" : {self.bits}" if self.bits else "")

    def value(self, rng: random.Random) -> Any:
        """Return a value."""
        return self.draw(rng)

    def leaves(self, place: str, value: Any) -> Iterator[Leaf]:
        """Yield the number; the BPF machine has no floats, so those go by their bits."""
        yield (f"*({self.via} *)&{place}" if self.via else place), self.literal(value)


@dataclass(frozen=True)
class Text(Node):
    """An array of char."""

    length: int

    def declare(self, name: str) -> str:
        """Return the declaration of *name*."""
        return f"char {name}[{self.length}]"

    def value(self, rng: random.Random) -> str:
        """Return a text that may fill the array."""
        return "".join(rng.choices("abcXYZ09_", k=rng.randint(0, self.length)))

    def leaves(self, place: str, value: str) -> Iterator[Leaf]:
        """Yield every char."""
        for at, char in enumerate(value.ljust(self.length, "\0")):
            yield f"{place}[{at}]", str(ord(char))


@dataclass(frozen=True)
class List(Node):
    """An array, also of arrays."""

    element: Node
    length: int

    def declare(self, name: str) -> str:
        """Return the declaration of *name*."""
        return self.element.declare(f"{name}[{self.length}]")

    def value(self, rng: random.Random) -> list[Any]:
        """Return as many values."""
        return [self.element.value(rng) for _ in range(self.length)]

    def leaves(self, place: str, value: list[Any]) -> Iterator[Leaf]:
        """Yield those of all elements."""
        for at, one in enumerate(value):
            yield from self.element.leaves(f"{place}[{at}]", one)

    def agrees(self, value: list[Any], read: list[Any]) -> bool:
        """Whether all elements are what was written."""
        return len(value) == len(read) and all(map(self.element.agrees, value, read))


@dataclass(frozen=True)
class Whole(Node):
    """A structure or a union; members called `unnamed…` have no name in C."""

    keyword: str
    members: Mapping[str, Node] = field(default_factory=dict)
    attributes: str = ""

    def body(self) -> str:
        """Return the members in braces."""
        lines = (
            f"{node.declare('' if name.startswith('unnamed') else name)};"
            for name, node in self.members.items()
        )
        return "{ " + " ".join(lines) + " }" + self.attributes

    def declare(self, name: str) -> str:
        """Return the declaration of *name*."""
        return f"{self.keyword} {self.body()} {name}"

    def value(self, rng: random.Random) -> dict[str, Any]:
        """Return the values of all members, of a union those of one."""
        names = list(self.members)
        chosen = [rng.choice(names)] if self.keyword == "union" else names
        found: dict[str, Any] = {}
        for name in chosen:
            one = self.members[name].value(rng)
            found |= one if name.startswith("unnamed") else {name: one}
        return found

    def leaves(self, place: str, value: Mapping[str, Any]) -> Iterator[Leaf]:
        """Yield those of the members that are there."""
        for name, node in self.members.items():
            if isinstance(node, Whole) and name.startswith("unnamed"):
                yield from node.leaves(place, value)
            elif name in value:
                yield from node.leaves(f"{place}.{name}", value[name])

    def agrees(self, value: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
        """Whether all members that were written are read."""
        return all(
            node.agrees(value, read)
            if name.startswith("unnamed")
            else name not in value or node.agrees(value[name], read[name])
            for name, node in self.members.items()
        )


class Maker:
    """Draws types from *rng*; the enumerations they need are in `enums`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.enums: list[str] = []
        self._count = 0

    def whole(self, depth: int = 2, keyword: str = "struct") -> Whole:
        """Return a structure or union of a few members."""
        # The kernel makes no map of values without a size.
        members: dict[str, Node] = {"first": self._integer()} if depth == 2 else {}
        for _ in range(self.rng.randint(1, 6 if keyword == "struct" else 3)):
            self._count += 1
            name = f"m{self._count}"
            node = self._member(depth)
            lends = isinstance(node, Whole) and self.rng.random() < 0.4
            members[f"unnamed_{name}" if lends else name] = node
        kinds = ["", "", " __attribute__((packed))", " __attribute__((aligned(16)))"]
        return Whole(keyword, members, self.rng.choice(kinds))

    def _member(self, depth: int) -> Node:
        roll = self.rng.random()
        if depth and roll < 0.25:
            return self.whole(depth - 1, self.rng.choice(["struct", "union"]))
        if roll < 0.4:
            return List(self._element(depth), self.rng.randint(0 if depth == 2 else 1, 3))
        if roll < 0.5:
            return Text(self.rng.randint(1, 9))
        return self._bit_field() if roll < 0.7 else self._scalar()

    def _element(self, depth: int) -> Node:
        if depth and self.rng.random() < 0.3:
            return List(self._element(0), self.rng.randint(1, 2))
        one = self.whole(0) if depth and self.rng.random() < 0.3 else self._scalar()
        return self._integer() if getattr(one, "c_type", "") == "char" else one  # that is text

    def _scalar(self) -> Scalar:
        return self.rng.choice([self._integer, self._integer, self._other, self._enum])()

    def _integer(self) -> Scalar:
        bits, sign = self.rng.choice([8, 16, 32, 64, 128]), self.rng.choice("su")
        name = "thrice_typed" if (bits, sign) == (32, "u") else f"{sign}{bits}"
        return Scalar(name, _integers(bits, is_signed=sign == "s"), _literal)

    def _bit_field(self) -> Scalar:
        size, sign = self.rng.choice([8, 16, 32, 64]), self.rng.choice("su")
        bits = self.rng.randint(1, size)
        if self.rng.random() < 0.2:
            return Scalar("bool", lambda rng: rng.random() < 0.5, lambda v: str(int(v)), bits=1)
        if self.rng.random() < 0.2:
            return self._enum(bits=8)
        return Scalar(f"{sign}{size}", _integers(bits, is_signed=sign == "s"), _literal, bits=bits)

    def _other(self) -> Scalar:
        return self.rng.choice(
            [
                Scalar("bool", lambda rng: rng.random() < 0.5, lambda v: str(int(v))),
                Scalar("char", _integers(8, is_signed=True), _literal),
                Scalar(
                    "void *", _integers(64, is_signed=False), lambda v: f"(void *){_literal(v)}"
                ),
                Scalar("float", _floats("f"), lambda v: _bits_of(v, "<f", "<I"), via="u32"),
                Scalar("double", _floats("d"), lambda v: _bits_of(v, "<d", "<Q"), via="u64"),
            ]
        )

    def _enum(self, bits: int = 0) -> Scalar:
        number = len(self.enums)
        low = 0 if bits else self.rng.choice([0, -3])
        names = {f"E{number}_{at}": low + 7 * at for at in range(4)}
        packed = " __attribute__((packed))" if self.rng.random() < 0.3 else ""
        members = ", ".join(f"{name} = {value}" for name, value in names.items())
        self.enums.append(f"enum e{number} {{ {members} }}{packed};")
        nameless = [] if low else [2, 100]
        return Scalar(
            f"enum e{number}",
            lambda rng: rng.choice([*names, *nameless]),
            lambda v: f"(enum e{number}){v}",
            bits=bits,
        )


def _integers(bits: int, *, is_signed: bool) -> Callable[[random.Random], int]:
    low = -(1 << bits - 1) if is_signed else 0
    high = low + (1 << bits) - 1
    return lambda rng: rng.choice([low, high, 0, rng.randint(low, high)])


def _floats(letter: str) -> Callable[[random.Random], float]:
    form = struct.Struct("<" + letter)
    return lambda rng: form.unpack(form.pack(rng.uniform(-1e6, 1e6)))[0]  # what it has room for


def _literal(value: int) -> str:
    if -(1 << 31) < value < 1 << 63:
        return str(value) + ("LL" if value > 1 << 30 else "")
    if 0 <= value < 1 << 64:
        return f"{value}ULL"
    unsigned = value % (1 << 128)
    wide = f"((u128){unsigned >> 64}ULL << 64 | {unsigned % (1 << 64)}ULL)"
    return wide if value > 0 else f"((s128){wide})"


def _bits_of(value: float, form: str, integer: str) -> str:
    return f"{struct.unpack(integer, struct.pack(form, value))[0]}ULL"


def compiled(text: str, folder: Path) -> Path:
    """Return the object that clang makes of it."""
    path = folder / "layouts.bpf.c"
    path.write_text(text)
    target = path.with_suffix(".o")
    command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wno-everything"]
    subprocess.run([*command, "-c", path, "-o", target], check=True)
    return target
