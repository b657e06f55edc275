"""Names in bpffs: reversible, and never one name for two things."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.errors import PinNameError
from bpfpin.pins import names


@pytest.mark.parametrize(
    ("part", "encoded"),
    [
        ("lab0", "lab0"),
        ("eth0.100", "eth0%2e100"),
        (".bss", "%2ebss"),
        ("lab0~stage", "lab0%7estage"),
        ("a@b", "a%40b"),
        ("100%", "100%25"),
        ("user.slice/x", "user%2eslice%2fx"),
        ("a b\n", "a%20b%0a"),
        ("größe", "größe"),
    ],
)
def test_what_bpffs_or_our_own_names_cannot_hold_is_escaped(part: str, encoded: str) -> None:
    assert names.encode(part) == encoded
    assert names.decode(encoded) == part


@pytest.mark.parametrize("name", ["n" * 250, "ö" * 125, os.fsdecode(b"\xff" * 255)])
@pytest.mark.parametrize("suffix", ["", "~17"])
def test_the_name_of_an_entry_that_moves_is_cut_to_what_the_kernel_takes(
    name: str, suffix: str
) -> None:
    aside = names.aside_name("other~", name, suffix)

    assert len(os.fsencode(aside)) == names.NAME_LENGTH_MAX
    assert aside.endswith(suffix)
    assert names.aside_name("other~", "short", suffix) == f"other~short{suffix}"


@given(st.binary(min_size=1, max_size=80).filter(lambda raw: 0 not in raw))
def test_every_encoded_name_reads_back_and_has_nothing_special_left(raw: bytes) -> None:
    part = os.fsdecode(raw)
    encoded = names.encode(part)

    assert names.decode(encoded) == part
    assert not set(encoded) & set(".~@/ \n\x1b")


def test_what_is_no_escape_of_ours_stays_when_decoded() -> None:
    assert names.decode("50%ZZ%2") == "50%ZZ%2"


def test_an_empty_or_overlong_name_is_refused() -> None:
    with pytest.raises(PinNameError):
        names.encode("")
    with pytest.raises(PinNameError, match="at most 255"):
        names.encode("." * 86)
    with pytest.raises(PinNameError, match="256 bytes long"):
        names.stage_name("a" * 250)


def test_a_set_is_called_after_its_device_and_namespace() -> None:
    assert names.set_name("lab0") == "lab0"
    assert names.set_name("eth0.100", "blue") == "blue@eth0%2e100"
    assert names.cgroup_set_name("/user.slice/my.service") == "@user%2eslice%2fmy%2eservice"
    assert names.cgroup_set_name("/") == "@%2f"


def test_a_set_is_shown_as_it_was_typed() -> None:
    assert names.display_name("blue@eth0%2e100") == "blue@eth0.100"


@pytest.mark.parametrize(
    ("name", "pin"),
    [
        ("xdp_stats_map", "xdp_stats_map"),
        (".bss", "%2ebss"),
        (".rodata.str1.1", "%2erodata%2estr1%2e1"),
    ],
)
def test_maps_are_pinned_under_their_whole_name(name: str, pin: str) -> None:
    assert names.map_pin_name(name) == pin


@pytest.mark.parametrize(
    "name", ["../xy", "a/b", ".", "..", "", "a b", "a\x1b", "1st", "x~y", "größe", ".text", "a\n"]
)
def test_a_map_name_that_is_no_c_identifier_is_refused(name: str) -> None:
    with pytest.raises(PinNameError):
        names.map_pin_name(name)


def test_a_program_name_that_is_no_c_identifier_is_refused() -> None:
    assert names.program_pin_name("xdp_pass_func") == "xdp_pass_func"
    with pytest.raises(PinNameError):
        names.program_pin_name("../xdp")


def test_links_are_named_by_hook_and_by_program_where_a_hook_has_several() -> None:
    assert names.link_pin_name("xdp") == "xdp"
    assert names.link_pin_name("tcx-ingress", "count") == "tcx-ingress~count"


def test_directories_of_our_own_are_no_sets() -> None:
    assert names.is_set_name("blue@lab0")
    assert not names.is_set_name(names.LOCK_DIRECTORY)
    assert not names.is_set_name(names.stage_name("lab0"))
