"""Texts of a kernel's configuration as the bytes of variables."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.btf.types import Array, BtfType, Enum, Enumerator, Int, IntEncoding
from bpfpin.errors import ObjectFileError
from bpfpin.externs import ExternKind, ExternSpec
from bpfpin.fixup.externs_find import encoded, values_in
from support.btf_tables import S32, U32, U64, table

BOOL = Int("_Bool", 1, 8, IntEncoding.BOOL)
CHAR = Int("char", 1, 8, IntEncoding.SIGNED)
S16 = Int("short", 2, 16, IntEncoding.SIGNED)
S64 = Int("long long", 8, 64, IntEncoding.SIGNED)
TRISTATE = Enum("libbpf_tristate", 4, is_signed=False, values=(Enumerator("TRI_NO", 0),))


def extern(*types: BtfType) -> ExternSpec:
    """Return a variable of the last of *types*."""
    ref = table(*types).ref(len(types))
    return ExternSpec("CONFIG_X", ExternKind.KCONFIG, ref, size=ref.size)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (BOOL, "y", b"\1"),
        (BOOL, "n", b"\0"),
        (BOOL, "1", b"\1"),
        (CHAR, "m", b"m"),
        (CHAR, "-128", b"\x80"),
        (TRISTATE, "m", b"\2\0\0\0"),
        (TRISTATE, "n", b"\0\0\0\0"),
        (U32, "0x10", b"\x10\0\0\0"),
        (U32, "017", b"\x0f\0\0\0"),
        (S32, "-1", b"\xff\xff\xff\xff"),
        (S16, "32767", b"\xff\x7f"),
        (U64, "18446744073709551615", b"\xff" * 8),
        (S64, "0xffffffff81000000", b"\0\0\0\x81\xff\xff\xff\xff"),
    ],
)
def test_a_value_fills_a_variable_that_has_room(kind: BtfType, text: str, expected: bytes) -> None:
    assert encoded(extern(kind), text) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (BOOL, "m"),
        (BOOL, "2"),
        (U32, "y"),
        (U32, "4294967296"),
        (U32, "-1"),
        (S16, "32768"),
        (CHAR, "128"),
        (U64, "18446744073709551616"),
        (TRISTATE, "1"),
        (U32, '"text"'),
        (U32, ""),
        (U32, "0x"),
        (U32, "1_000"),
        (U32, "9" * 5000),
        (U32, "words"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(kind: BtfType, text: str) -> None:
    with pytest.raises(ObjectFileError, match=r"CONFIG_X is .* does not fit") as caught:
        encoded(extern(kind), text)

    assert (caught.value.section, caught.value.symbol) == (".kconfig", "CONFIG_X")


@pytest.mark.parametrize(
    ("text", "expected"),
    [('"ab"', b"ab\0\0"), ('""', bytes(4)), ('"abcdef"', b"abc\0")],
)
def test_a_text_is_unquoted_padded_and_cut(text: str, expected: bytes) -> None:
    assert encoded(extern(CHAR, Array(1, 1, 4)), text) == expected


@pytest.mark.parametrize("text", ['"', '"open', "y", "12"])
def test_an_array_takes_nothing_but_a_text_in_quotes(text: str) -> None:
    with pytest.raises(ObjectFileError, match="does not fit"):
        encoded(extern(CHAR, Array(1, 1, 4)), text)


def test_a_configuration_is_read_for_what_is_wanted() -> None:
    text = b'# CONFIG_OFF is not set\nCONFIG_A=y\n\nCONFIG_B="x=y # z"\nCONFIG_C=3\nCONFIG_A=n\n'

    assert values_in(text, {"CONFIG_A", "CONFIG_B", "CONFIG_OFF"}) == {
        "CONFIG_A": "n",
        "CONFIG_B": '"x=y # z"',
    }
    assert values_in(text) == {"CONFIG_A": "n", "CONFIG_B": '"x=y # z"', "CONFIG_C": "3"}


@given(st.binary(max_size=300))
def test_a_damaged_configuration_is_read_without_an_error(text: bytes) -> None:
    values = values_in(b"CONFIG_A=" + text)

    assert all(name.startswith("CONFIG_") for name in values)


@given(st.text(max_size=30))
def test_any_text_fits_or_is_refused(text: str) -> None:
    made = bytes(4)
    with contextlib.suppress(ObjectFileError):
        made = encoded(extern(U32), text)

    assert len(made) == 4
