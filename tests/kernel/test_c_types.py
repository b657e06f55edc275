"""The types of maps as C: by id, by name and by pin."""

from __future__ import annotations

from pathlib import Path

from bpfpin import Map, MapSpec, MapType
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from support.cli import run_cli, run_cli_ok


def typed() -> MapSpec:
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    u64 = builder.add(Int("unsigned long long", 8, 64))
    record = builder.add(Struct("datarec", 16, (Member("a", u64, 0), Member("b", u32, 64))))
    builder.add(Struct("other", 4, (Member("a", u32, 0),)))
    btf = Btf.parse(builder.build())
    return MapSpec("c_types_typed", MapType.HASH, 4, 16, 8, key=btf.ref(u32), value=btf.ref(record))


def test_a_maps_types_are_those_of_its_keys_and_values(bpffs: Path) -> None:
    with Map.create(typed()) as made:
        made.pin(bpffs / "typed")
        texts = {
            run_cli_ok("btf", "dump", name).stdout
            for name in (f"id:{made.id}", "name:c_types_typed", bpffs / "typed")
        }

        assert texts == {
            f"/* Types of map c_types_typed (id {made.id}), written by bpfpin. */\n#pragma once\n\n"
            "/* key: u32 */\n/* value: struct datarec { u64 a; u32 b; } */\n\n"
            "struct datarec {\n\tunsigned long long a;\n\tunsigned int b;\n};\n"
        }


def test_a_map_without_types_says_so() -> None:
    with Map.create(MapSpec("c_types_plain", MapType.HASH, 4, 4, 8)) as made:
        result = run_cli("btf", "dump", f"id:{made.id}")

        assert result.exit_code == 2
        assert f"map c_types_plain (id {made.id}) has no BTF" in result.stderr
        assert f"hint: bpfpin map show id:{made.id}" in result.stderr
        run_cli_ok("map", "show", f"id:{made.id}")
