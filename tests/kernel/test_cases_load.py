"""Objects as public projects write them, loaded: their maps are used and their programs run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.errors import LimitError, UsageError, VerifierError
from bpfpin.insn import exit_, mov_imm
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.events.ring_buffer import RingBuffer
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.sets.load.deploy import deploy
from bpfpin.spec import Dialect, Pinning
from support.cli import run_cli
from support.elf_writer import ElfWriter
from support.objects import COMPILERS, compiled_case

PACKET = bytes(64)
both = pytest.mark.parametrize("compiler", COMPILERS)


def number(held: Map, key: int) -> int:
    return int.from_bytes(held.lookup_bytes(key.to_bytes(4, "little")), "little")


def loaded_case(name: str, compiler: str, *, defines: tuple[str, ...] = ()) -> Loaded:
    return load(read_object(compiled_case(name, compiler, defines=defines)))


@both
def test_maps_in_sections_of_their_own_count(compiler: str) -> None:
    with loaded_case("maps_section_per_map", compiler) as loaded:
        loaded.programs["p"].test_run(PACKET, repeat=3)

        assert number(loaded.maps["counter"], 0) == 3


@both
@pytest.mark.parametrize("variant", range(1, 6))
def test_maps_of_old_definitions_are_written(variant: int, compiler: str) -> None:
    defines = (f"V={variant}", 'SECT="maps/x"')
    with loaded_case("legacy_forms", compiler, defines=defines) as loaded:
        loaded.programs["legacy"].test_run(PACKET)

        assert [number(loaded.maps[name], 1) for name in ("first_map", "second_map")] == [1, 1]


@pytest.mark.parametrize("compiler", [*COMPILERS, "gcc"])
@pytest.mark.parametrize("defines", [(), ("VARS",)])
def test_the_second_map_and_variable_are_the_ones_that_change(
    defines: tuple[str, ...], compiler: str
) -> None:
    with loaded_case("gcc_second_map", compiler, defines=defines) as loaded:
        loaded.programs["p"].test_run(PACKET, repeat=2)

        assert [number(loaded.maps[name], 0) for name in ("one", "two")] == [0, 2]
        assert loaded.notes == ()  # the kernel took the types
        if defines:
            variables = loaded.variables
            assert (variables["a"].value, variables["b"].value) == (1, 4)


@both
def test_records_of_a_typed_ring_buffer_are_decoded(compiler: str) -> None:
    spec = read_object(compiled_case("ringbuf_typed", compiler))
    with load(spec) as loaded:
        events = loaded.maps["events"]
        with RingBuffer.of(events, value_type=spec.maps["events"].value) as ring:
            loaded.programs["p"].test_run(PACKET)
            (record,) = ring.consume()

        assert (events.key_size, events.value_size) == (0, 0)
    assert record["pid"] == 1


def test_a_perf_event_array_that_names_its_records_is_made() -> None:
    spec = read_object(compiled_case("map_einval", defines=("CASE=13",)))
    with Map.create(spec.maps["themap"]) as events:
        assert (events.key_size, events.value_size) == (4, 4)


def test_a_billion_entries_are_refused_with_the_limit() -> None:
    spec = read_object(compiled_case("map_einval", defines=("CASE=17",)))

    with pytest.raises(LimitError, match="themap") as caught:
        load(spec)

    assert caught.value.asked > 1 << 30


def test_a_pinning_without_a_meaning_is_asked_about(bpffs: Path) -> None:
    source = compiled_case("pinning_16")

    with pytest.raises(UsageError, match="pinning 16") as caught:
        deploy(source, device="lo", pin_root=bpffs)
    with deploy(source, device="lo", pin_root=bpffs, pinning={"calls": "by-name"}) as deployment:
        assert (bpffs / "calls").exists()
        assert deployment.maps["calls"].max_entries == 8

    assert "pinning={'calls': 'none'}" in caught.value.hint


def test_the_options_that_the_command_names_for_it_work(bpffs: Path) -> None:
    source = compiled_case("pinning_16")
    words = ("--pin-root", bpffs, "load", source, "--dev", "lo")

    refused = run_cli(*words)
    checked = run_cli("check", source, "-o", "json")
    done = run_cli(*words, "--pinning", "calls=none")

    assert (refused.exit_code, done.exit_code) == (2, 0)
    assert "--pinning calls=none" in refused.stderr
    (map_,) = checked.json["objects"][0]["maps"]
    assert (checked.exit_code, map_["pinning"]) == (0, "unknown 16")
    assert any("--pinning calls=none" in note for note in checked.json["objects"][0]["notes"])
    assert not (bpffs / "calls").exists()


@pytest.mark.parametrize("word", ["calls", "calls=", "=none", "calls=global", "other=none"])
def test_other_words_of_pinning_are_refused(word: str) -> None:
    done = run_cli("load", compiled_case("pinning_16"), "--dev", "lo", "--pinning", word)

    assert done.exit_code == 2
    assert "pinning" in done.stderr or "other" in done.stderr


def test_forms_that_were_guessed_are_told_at_check_and_load(bpffs: Path) -> None:
    source = compiled_case("map_def_pinning", has_debug=False)

    spec = read_object(source)
    checked = run_cli("check", source)

    assert spec.maps["ingress_map"].pinning is Pinning.GLOBAL_NAMESPACE
    assert spec.maps["ingress_map"].dialect is Dialect.BPF_MAP_DEF
    assert "compile with -g to say so" in checked.stdout


@both
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
def test_a_constant_of_the_loader_decides_what_the_program_does(
    compiler: str, *, has_debug: bool
) -> None:
    spec = read_object(compiled_case("loader_constant", compiler, has_debug=has_debug))
    results = []
    for limit in (3, 4, 1 << 63):
        with load(spec.with_constant("LIMIT", limit)) as loaded:
            results.append(loaded.programs["p"].test_run(PACKET).return_value)

    with pytest.raises(UsageError, match="loads LIMIT, which the object does not define") as caught:
        load(spec)
    assert results == [1, 2, 2]
    assert "variables={'LIMIT': NUMBER}" in caught.value.hint


def test_the_option_that_the_refusal_names_gives_the_constant(bpffs: Path) -> None:
    source = compiled_case("loader_constant")
    words = ("--pin-root", bpffs, "load", source, "--dev", "lo")

    refused = run_cli(*words)
    loaded = run_cli(*words, "--set", "LIMIT=5")
    same = run_cli(*words, "--set", "LIMIT=0x5", "-o", "json")
    other = run_cli(*words, "--set", "LIMIT=6", "-o", "json")
    wrong = run_cli(*words, "--set", "LIMIT=many")
    unchecked = run_cli("check", source)
    checked = run_cli("check", source, "--set", "LIMIT=5")

    assert (refused.exit_code, loaded.exit_code, wrong.exit_code) == (2, 0, 2)
    assert "--set LIMIT=NUMBER" in refused.stderr
    assert (same.json["result"], other.json["result"]) == ("unchanged", "reloaded")
    assert (unchecked.exit_code, checked.exit_code) == (2, 0)


@both
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
def test_an_address_in_data_is_zero_and_the_program_counts(
    compiler: str, *, has_debug: bool
) -> None:
    spec = read_object(compiled_case("pointer_in_data", compiler, has_debug=has_debug))
    with load(spec) as loaded:
        loaded.programs["ptr"].test_run(PACKET, repeat=2)

        assert loaded.variables["counter"].value == 9
        assert loaded.variables["greeting"].value == 0
    assert any("greeting: addresses are 0" in note for note in spec.notes)


def test_a_program_of_a_compiler_without_optimization_is_told_as_that() -> None:
    path = compiled_case("gcc_second_map", "clang", options=("-O0",))

    with pytest.raises(VerifierError) as caught:
        load(read_object(path))

    assert caught.value.cause == "not-optimized"
    assert "-O2" in caught.value.hint


def test_an_optional_program_is_left_out_and_named(bpffs: Path, tmp_path: Path) -> None:
    elf = ElfWriter()
    elf.license("GPL")
    elf.function("xdp", "main", [mov_imm(0, 2), exit_()])
    elf.function("?xdp", "other", [mov_imm(0, 2), exit_()])
    elf.function("?tc", "third", [mov_imm(0, 0), exit_()])
    source = tmp_path / "optional.o"
    source.write_bytes(elf.build())
    words = ("--pin-root", bpffs, "load", source, "--dev", "lo")

    loaded = run_cli(*words)
    chosen = run_cli(*words, "--prog", "other", "-o", "json")

    assert (loaded.exit_code, chosen.exit_code) == (0, 0)
    assert "left out, as their sections begin with `?`: other, third; --prog other" in loaded.stderr
    assert [each["name"] for each in chosen.json["programs"]] == ["other"]


def test_a_big_endian_object_is_shown_and_not_loaded(bpffs: Path) -> None:
    source = compiled_case("pass", "clang", options=("-target", "bpfeb"))

    checked = run_cli("check", source, "-o", "json")
    loaded = run_cli("--pin-root", bpffs, "load", source, "--dev", "lo")

    (report,) = checked.json["objects"]
    assert (checked.exit_code, loaded.exit_code) == (5, 5)
    assert [each["name"] for each in report["maps"]] == ["hits"]
    assert [(each["name"], each["verified"]) for each in report["programs"]] == [("pass", False)]
    assert "big-endian" in loaded.stderr
