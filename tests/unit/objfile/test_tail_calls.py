"""Programs in sections `ID/KEY`: which entry they fill, and of what type they are taken to be."""

from __future__ import annotations

import struct

import pytest

from bpfpin.errors import ObjectFileError
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.uapi import AttachType, MapType, ProgramType
from support.elf_writer import ElfWriter, NewSymbol

RETURN = [mov_imm(0, 2), exit_()]
JUMPING = [*load_imm64(2, 0), *RETURN]


def with_maps(**maps: tuple[MapType, int]) -> tuple[ElfWriter, list[NewSymbol]]:
    """Return an object with maps of four entries, each of that type and with that id."""
    elf = ElfWriter()
    data = [struct.pack("<9I", kind, 4, 4, 4, 0, map_id, 0, 0, 0) for kind, map_id in maps.values()]
    section = elf.section("maps", b"".join(data))
    symbols = [elf.symbol(name, section, value=36 * at, size=36) for at, name in enumerate(maps)]
    return elf, symbols


def with_jumps() -> tuple[ElfWriter, NewSymbol]:
    elf, (jumps,) = with_maps(jumps=(MapType.PROG_ARRAY, 7))
    return elf, jumps


def types(spec: ObjectSpec) -> dict[str, tuple[ProgramType, AttachType | None]]:
    return {name: (each.type, each.expected_attach_type) for name, each in spec.programs.items()}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("xdp", (ProgramType.XDP, AttachType.XDP)),
        ("classifier", (ProgramType.SCHED_CLS, None)),
        ("action", (ProgramType.SCHED_ACT, None)),
        ("cgroup_skb/egress", (ProgramType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS)),
    ],
)
def test_the_type_is_that_of_the_object_s_other_programs(
    section: str, expected: tuple[ProgramType, AttachType | None]
) -> None:
    elf, _ = with_jumps()
    elf.function(section, "front", RETURN)
    elf.function("7/3", "third", RETURN)
    spec = read_object(elf.build())

    assert types(spec) == {"front": expected, "third": expected}
    assert spec.programs["third"].hook is None
    assert spec.programs["third"].section_note == (
        "section '7/3' fills index 3 of the program array with id 7;"
        f" taken to be {expected[0].name.lower()} like front"
    )


def test_of_several_types_it_is_that_of_the_programs_that_jump() -> None:
    elf, jumps = with_jumps()
    elf.function("classifier", "other", RETURN)
    elf.relocation(elf.function("xdp", "front", JUMPING), jumps)
    elf.function("7/0", "first", RETURN)
    spec = read_object(elf.build())

    assert types(spec)["first"] == (ProgramType.XDP, AttachType.XDP)
    assert spec.programs["first"].section_note.endswith("taken to be xdp like front")


def test_where_several_types_would_do_it_is_what_iproute2_mostly_loads() -> None:
    elf, _ = with_jumps()
    elf.function("socket", "one", RETURN)
    elf.function("xdp", "two", RETURN)
    elf.function("7/0", "first", RETURN)
    spec = read_object(elf.build())

    assert types(spec)["first"] == (ProgramType.SCHED_CLS, None)
    assert spec.programs["first"].section_note.endswith(
        "taken to be sched_cls, iproute2's usual type"
    )


def test_a_type_with_several_attach_types_is_taken_without_any() -> None:
    elf, _ = with_jumps()
    elf.function("tcx/ingress", "coming", RETURN)
    elf.function("tcx/egress", "going", RETURN)
    elf.function("7/0", "first", RETURN)

    assert types(read_object(elf.build()))["first"] == (ProgramType.SCHED_CLS, None)


def test_the_user_s_word_wins_and_guesses_nothing() -> None:
    elf, _ = with_jumps()
    elf.function("classifier", "front", RETURN)
    elf.function("7/0", "first", RETURN)
    for words in ("xdp", {"first": "xdp"}):
        spec = read_object(elf.build(), program_types=words)

        assert types(spec)["first"] == (ProgramType.XDP, AttachType.XDP)
        assert (spec.programs["first"].hook, spec.programs["first"].section_note) == (None, "")
        assert spec.maps["jumps"].initial == ((0, "first"),)


def test_an_index_beyond_the_array_is_refused() -> None:
    elf, _ = with_jumps()
    elf.function("7/4", "fourth", RETURN)

    with pytest.raises(ObjectFileError, match=r"entry 4 .* max_entries is 4") as caught:
        read_object(elf.build())

    assert caught.value.symbol == "jumps"


def test_two_programs_for_one_index_are_refused() -> None:
    elf, _ = with_jumps()
    elf.function("7/1", "one", RETURN)
    elf.function("0x7/1", "two", RETURN)

    with pytest.raises(ObjectFileError, match="two fills index 1 of jumps, as one does") as caught:
        read_object(elf.build())

    assert (caught.value.section, caught.value.symbol) == ("0x7/1", "two")


def test_a_map_with_that_id_that_holds_no_programs_is_refused() -> None:
    elf, _ = with_maps(flows=(MapType.HASH, 7))
    elf.function("7/1", "one", RETURN)

    with pytest.raises(ObjectFileError, match="id 7, but flows is of type"):
        read_object(elf.build())


def test_the_program_array_is_the_one_among_maps_of_that_id() -> None:
    elf, _ = with_maps(flows=(MapType.HASH, 7), jumps=(MapType.PROG_ARRAY, 7))
    elf.function("7/1", "one", RETURN)
    maps = read_object(elf.build()).maps

    assert {name: each.initial for name, each in maps.items()} == {
        "flows": (),
        "jumps": ((1, "one"),),
    }
