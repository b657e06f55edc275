"""Reports in words."""

from __future__ import annotations

import pytest

from bpfpin.objects.kernel.info import Extension
from bpfpin.sets.reports import OtherProgram

A, B, C = Extension(4, "first"), Extension(5, ""), Extension(6, "third")


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ((), ""),
        ((A,), ", which runs first (id 4)"),
        ((A, B), ", which runs first (id 4) and a program (id 5)"),
        ((A, B, C), ", which runs first (id 4), a program (id 5) and third (id 6)"),
    ],
)
def test_a_program_of_others_is_shown_with_those_that_it_calls(
    extensions: tuple[Extension, ...], words: str
) -> None:
    other = OtherProgram("eth0", "xdp", 3, "xdp_dispatcher", "native", extensions)

    assert str(other) == f"xdp_dispatcher (id 3) at xdp of eth0 in native mode{words}"
    assert list(other.to_json()["extensions"]) == [vars_of(each) for each in extensions]


def vars_of(extension: Extension) -> dict[str, object]:
    return {"id": extension.id, "name": extension.name}
