"""Maps without types of their own (`struct bpf_map_def`): a layout describes old and new values.

Adding a byte counter to such a map is the first assignment of the XDP tutorial.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bpfpin
from bpfpin.pins import names
from support.here import Here, veth
from support.lab import TestLab
from support.objects import compiled
from support.shapes import COUNTERS, ONLY_PACKETS

ONE = ("MEMBERS=__u64 packets;", f"COUNT={ONLY_PACKETS}")
TWO = ("MEMBERS=__u64 packets; __u64 bytes;",)
STRUCT = "struct counter"
# Compilers write the structures of functions and variables into BTF, not those of the code alone.
FUNCTION = "VARIABLES=int shown(struct counter *one) { return one ? (int)one->packets : 0; }"
KINDS = ("typed", "debug", "plain")


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def source(kind: str, members: tuple[str, ...], **macros: object) -> Path:
    """Return a version: its map typed, or not with the object's types (`debug`), or with none."""
    defines = (*members, FUNCTION, *(f"{name}={text}" for name, text in macros.items()))
    if kind == "typed":
        return compiled("migrate_shapes", defines=defines)
    has_debug = kind == "debug"
    return compiled("migrate_shapes", has_debug=has_debug, defines=("WITHOUT_BTF", *defines))


def counted(here: Here, kind: str, *, packets: int = 7, key: int = 1, **macros: object) -> None:
    """Load the version with one counter, which has counted."""
    here.load(source(kind, ONE, **macros))
    with bpfpin.Map.from_pin(here.set / COUNTERS, key_format="I", value_format="Q") as held:
        held[key] = packets


def numbers(here: Here, key: int = 1, *, pin: str = COUNTERS) -> tuple[int, ...]:
    """Return the numbers of a value of the map as it is now."""
    key = 0 if pin != COUNTERS else key
    with bpfpin.Map.from_pin(here.set / pin) as held:
        value = bytes(held.lookup_bytes(key.to_bytes(4, "little")) or b"")
    return tuple(
        int.from_bytes(value[at : at + 8], "little") for at in range(0, held.value_size, 8)
    )


def migrated(document: Any) -> Any:
    (told,) = [one["migration"] for one in document["maps"] if one["name"] == COUNTERS]
    return told


def layouts(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--layout", f"{COUNTERS}={text}")]


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_a_counter_is_added_whatever_is_known_of_the_two_maps(
    here: Here, old: str, new: str
) -> None:
    counted(here, old)
    old_text, new_text = "u64 packets", "u64 packets; u64 bytes"
    said = [
        *([old_text] if old != "typed" else []),
        *([new_text] if new != "typed" else []),
    ]
    document = here.load(source(new, TWO), "--migrate", *layouts(*said))
    told = migrated(document)

    assert (told["is_exact"], told["losses"], told["entries"]) == (True, [], 1)
    assert [one["rule"] for one in told["value_members"]] == ["sum", "new"]
    assert numbers(here) == (7, 0)


@pytest.mark.parametrize(
    ("old", "new"), [("debug", "debug"), ("typed", "debug"), ("debug", "typed")]
)
def test_a_structure_of_the_programs_describes_both_sides(here: Here, old: str, new: str) -> None:
    """The old one is in the types of the running program, the new one in those of the object."""
    counted(here, old)
    told = migrated(here.load(source(new, TWO), "--migrate", *layouts(STRUCT)))

    assert told["is_exact"] is True
    assert numbers(here) == (7, 0)


def test_a_structure_for_the_new_side_and_members_for_the_old_one(here: Here) -> None:
    counted(here, "plain")
    words = layouts(STRUCT, "u64 packets")
    here.load(source("debug", TWO), "--migrate", *words)

    assert numbers(here) == (7, 0)


@pytest.mark.parametrize(("kind", "flags"), [("PERCPU_HASH", {}), ("LRU_HASH", {"ENTRIES": 4096})])
def test_the_kind_of_the_map_may_change_along(
    here: Here, kind: str, flags: dict[str, object]
) -> None:
    counted(here, "debug")
    count = "counter->packets++, counter->bytes += size" if kind == "PERCPU_HASH" else None
    macros = {"TYPE": kind, **flags} | ({"COUNT": count} if count else {})
    told = migrated(here.load(source("debug", TWO, **macros), "--migrate", *layouts(STRUCT)))

    assert told["is_exact"] is True
    assert told["old"]["type"] == "hash"
    assert told["new"]["type"] == kind.lower()


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", ["debug", "plain"])
def test_the_line_of_the_refusal_works_when_typed(here: Here, old: str, new: str) -> None:
    """With the one structure that both sides have, else with members to be filled in."""
    counted(here, old)
    error = here.load_refused(6, source(new, TWO)).json["error"]
    (line,) = [one for one in error["hint"].splitlines() if "to carry over" in one]
    words = shlex.split(line.partition(": ")[2])
    values = iter(
        ["u64 packets; u64 bytes"] if old == "typed" else ["u64 packets", "u64 packets; u64 bytes"]
    )
    filled = [f"{COUNTERS}={next(values)}" if "MEMBER" in word else word for word in words]
    here.load(source(new, TWO), *filled)

    assert words[0] == "--migrate"
    assert (words[2:] == [f"{COUNTERS}={STRUCT}"]) == ("plain" not in (old, new))
    assert numbers(here) == (7, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["u32 packets"], "its members take 4 bytes, the map's old values 8 and its new ones 16"),
        (["u64 a; u64 b; u64 c"], "its members take 24 bytes, the map's old values 8"),
        (["struct nothing"], "neither the object nor the running programs have struct nothing"),
        (["u64 a", "u64 a; u64 b", "u64 c"], "at most two, for old and new"),
        (["float x"], "'float x' is not a member"),
    ],
)
def test_a_layout_that_fits_neither_side_is_refused(
    here: Here, words: list[str], said: str
) -> None:
    counted(here, "debug")
    error = here.load_refused(2, source("debug", TWO), "--migrate", *layouts(*words)).json["error"]

    assert said in error["message"]


def test_a_layout_for_a_map_with_types_is_refused(here: Here) -> None:
    counted(here, "typed")
    words = layouts("u64 packets")
    error = here.load_refused(2, source("typed", TWO), "--migrate", *words).json["error"]

    assert "types of its own" in error["message"]


def test_one_side_alone_asks_for_the_other(here: Here) -> None:
    counted(here, "plain")
    words = layouts("u64 packets; u64 bytes")
    error = here.load_refused(6, source("plain", TWO), "--migrate", *words).json["error"]

    assert f"add --layout {COUNTERS}='u64 MEMBER'" in error["hint"]


def test_members_are_typed_as_c_writes_them(here: Here) -> None:
    counted(here, "plain")
    words = layouts("uint64_t packets", "__u64 packets; __u64 bytes;")
    here.load(source("plain", TWO), "--migrate", *words)

    assert numbers(here) == (7, 0)


def test_two_layouts_of_one_size_are_old_and_new(here: Here) -> None:
    """The members changed places."""
    here.load(source("plain", TWO))
    with bpfpin.Map.from_pin(here.set / COUNTERS, key_format="I", value_format="QQ") as held:
        held[1] = (7, 70)
    swapped = ("MEMBERS=__u64 bytes; __u64 packets;",)
    words = layouts("u64 packets; u64 bytes", "u64 bytes; u64 packets")
    here.load(source("plain", swapped, ENTRIES=32), "--migrate", *words)

    assert numbers(here) == (70, 7)


def test_python_takes_one_layout_or_one_for_each_side(here: Here) -> None:
    counted(here, "plain")
    both = {COUNTERS: ("u64 packets", "u64 packets; u64 bytes")}
    migration = bpfpin.Migration(layouts=both)
    bpfpin.deploy(
        source("plain", TWO), device=here.device, pin_root=here.root, migrate=migration
    ).close()

    assert numbers(here) == (7, 0)


def test_a_counter_is_added_under_traffic(lab: TestLab, bpffs: Path) -> None:
    """Both versions count in a variable, too, which stays: the truth."""
    truth = "VARIABLES=__u64 truth;"
    plain = {"has_debug": False}
    old = compiled(
        "migrate_shapes",
        defines=("WITHOUT_BTF", ONE[0], truth, "COUNT=ADD(counter->packets, 1), ADD(truth, 1)"),
        **plain,
    )
    count = "COUNT=ADD(counter->packets, 1), ADD(counter->bytes, 1), ADD(truth, 1)"
    new = compiled("migrate_shapes", defines=("WITHOUT_BTF", TWO[0], truth, count), **plain)
    here = Here(bpffs, lab.device)
    here.load(old)
    sender = threading.Thread(target=lab.flood, args=(40_000,))
    sender.start()
    words = layouts("u64 packets", "u64 packets; u64 bytes")
    told = migrated(here.load(new, "--migrate", *words))
    sender.join()
    truth_of = numbers(here, pin=names.map_pin_name(".bss"))[0]
    packets, since = numbers(here, key=0)
    here.ok("unload", here.device)

    assert told["is_exact"] is True
    assert packets == truth_of >= 40_000
    assert 0 <= since <= packets
