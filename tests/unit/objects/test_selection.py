"""What of an object is loaded: all that is not optional, or what is named."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.loading.collection import selected
from bpfpin.spec import MapSpec, ObjectSpec, ProgramSpec
from bpfpin.uapi import MapType, ProgramType


def program(name: str, section: str = "xdp") -> ProgramSpec:
    return ProgramSpec(name, ProgramType.XDP, section, ())


def table(name: str, section: str, *programs: str) -> MapSpec:
    entries = tuple(enumerate(programs))
    return MapSpec(name, MapType.STRUCT_OPS, 4, 8, 1, initial=entries, section=section)


SPEC = ObjectSpec(
    maps={
        "counts": MapSpec("counts", MapType.ARRAY, 4, 8, 1, section=".maps"),
        "wanted": table("wanted", ".struct_ops", "always"),
        "spare": table("spare", "?.struct_ops", "rarely"),
    },
    programs={
        "usual": program("usual"),
        "asked": program("asked", "?xdp"),
        "always": program("always", "struct_ops/always"),
        "rarely": program("rarely", "struct_ops/rarely"),
    },
)


@pytest.mark.parametrize(
    ("names", "programs", "maps"),
    [
        (None, ["usual", "always"], ["counts", "wanted"]),
        (["asked"], ["asked"], ["counts", "wanted"]),
        (["rarely"], ["rarely"], ["counts", "wanted", "spare"]),
        ([], [], ["counts", "wanted"]),
    ],
)
def test_what_is_optional_is_loaded_when_it_is_named(
    names: list[str] | None, programs: list[str], maps: list[str]
) -> None:
    chosen = selected(SPEC, names)

    assert (list(chosen.programs), list(chosen.maps)) == (programs, maps)


def test_targets_take_the_place_of_those_of_the_sections() -> None:
    chosen = selected(SPEC, None, {"usual": "do_nanosleep"})

    assert chosen.programs["usual"].attach_to == "do_nanosleep"


def test_a_name_that_the_object_lacks_is_told() -> None:
    with pytest.raises(UsageError, match="no program 'nosuch'"):
        selected(SPEC, ["nosuch"])
