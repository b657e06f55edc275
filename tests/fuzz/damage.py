"""Damage of every sort, chosen by a number: the same number gives the same bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fuzz.fields import Extent, Field, extents, fields

_BOUNDARIES = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, 4095, 4096),
    *(0x7FFF, 0x8000, 0xFEFF, 0xFF00, 0xFFF1, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000, 0xFFFFF),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 32) + 8),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1),
)


@dataclass(frozen=True)
class Seed:
    """An object before it is damaged, and where everything is in it."""

    name: str
    data: bytes
    fields: list[Field]
    extents: list[Extent]


Damage = Callable[[random.Random, bytearray, Seed, "Damager"], None]


class Damager:
    """Makes case after case from *objects*; cases are counted from 0."""

    def __init__(self, objects: Mapping[str, bytes], *, key: str = "0") -> None:
        self.seeds = [Seed(name, d, fields(d), extents(d)) for name, d in objects.items()]
        self._key = key

    def case(self, number: int) -> tuple[str, bytes]:
        """Return what case *number* is called, and its bytes."""
        rng = random.Random(f"{self._key} {number}")
        seed = rng.choice(self.seeds)
        data = bytearray(seed.data)
        done = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            damage = rng.choices(_DAMAGES, _WEIGHTS)[0]
            damage(rng, data, seed, self)
            done.append(damage.__name__.strip("_"))
        return f"{number}: {seed.name}, {' and '.join(done)}", bytes(data)


def _boundary(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    rng.choice(seed.fields).put(data, rng.choice(_BOUNDARIES))


def _nearby(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    field = rng.choice(seed.fields)
    field.put(data, field.value(data) + rng.choice((-64, -8, -4, -1, 1, 4, 8, 64)))


def _borrowed(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    """Give a field what another one has: an index, an offset, a type that is there."""
    rng.choice(seed.fields).put(data, rng.choice(seed.fields).value(data))


def _small(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    rng.choice(seed.fields).put(data, rng.randrange(40))


def _random_field(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    rng.choice(seed.fields).put(data, rng.getrandbits(64))


def _bit(rng: random.Random, data: bytearray, _: Seed, __: Damager) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _bytes(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    """Overwrite some bytes of a section that is read."""
    part = rng.choice(seed.extents)
    at = part.start + rng.randrange(part.size)
    piece = rng.randbytes(rng.choice((1, 2, 4, 8, 16)))
    data[at : at + len(piece)] = piece


def _cut(rng: random.Random, data: bytearray, _: Seed, __: Damager) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _shorter_section(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    part = rng.choice(seed.extents)
    Field(_header(data, part.section_index) + 32, "<Q").put(data, rng.randrange(part.size))


def _moved(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    """Copy some bytes over others of the same file."""
    source, target = rng.choice(seed.extents), rng.choice(seed.extents)
    size = rng.randint(1, min(source.size, target.size))
    at = rng.randint(0, target.size - size) // 4 * 4
    piece = data[source.start : source.start + size]
    data[target.start + at : target.start + at + len(piece)] = piece


def _spliced(rng: random.Random, data: bytearray, seed: Seed, damager: Damager) -> None:
    """Put a section of another object in the place of one of this; it goes behind the file."""
    other = rng.choice(damager.seeds)
    part = rng.choice(other.extents)
    same = [each for each in seed.extents if each.name == part.name] or seed.extents
    header = _header(data, rng.choice(same).section_index)
    start = len(data)
    data += other.data[part.start : part.start + part.size]
    Field(header + 24, "<Q").put(data, start)
    Field(header + 32, "<Q").put(data, part.size)


def _swapped_headers(rng: random.Random, data: bytearray, seed: Seed, _: Damager) -> None:
    """Let two section headers change places: indices then name other sections."""
    one, other = (_header(data, rng.choice(seed.extents).section_index) for _ in range(2))
    data[one : one + 64], data[other : other + 64] = (
        data[other : other + 64],
        data[one : one + 64],
    )


def _header(data: bytearray, index: int) -> int:
    (table,) = struct.unpack_from("<Q", data, 40) if len(data) >= 48 else (0,)
    return int(table) + 64 * index


_CHOICES: dict[Damage, int] = {
    _boundary: 20,
    _nearby: 15,
    _borrowed: 15,
    _small: 15,
    _random_field: 5,
    _bit: 8,
    _bytes: 6,
    _cut: 2,
    _shorter_section: 4,
    _moved: 4,
    _spliced: 5,
    _swapped_headers: 2,
}
_DAMAGES = list(_CHOICES)
_WEIGHTS = list(_CHOICES.values())
