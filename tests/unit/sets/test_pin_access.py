"""Which pins of a set are open to more users than the set was loaded for."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from bpfpin.pins.manifest import Access, AttachPoint, Manifest
from bpfpin.pins.pinset import LoadedSet, SetState
from bpfpin.sets.status import open_pins

MINE = os.getgid()
KINDS = ("map", "program", "link")


def loaded(directory: Path, access: Access | None, **modes: int) -> LoadedSet:
    """Return a set whose pins, one each of a map, a program and a link, have these modes."""
    paths = {name: directory / name for name in modes}
    for name, path in paths.items():
        path.touch()
        path.chmod(modes[name])
    manifest = Manifest("0.1.0", "x.o", "00" * 32, 1, 0, AttachPoint(), access=access)
    maps, programs, links = ({n: p for n, p in paths.items() if n == kind} for kind in KINDS)
    return LoadedSet(directory, SetState.OK, "", manifest, maps, programs, links)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (0o600, []),
        (0o640, ["mode 0640 lets group GROUP read it"]),
        (0o604, ["mode 0604 lets everybody read it"]),
        (0o644, ["mode 0644 lets group GROUP and everybody read it"]),
        (0o664, ["mode 0664 lets group GROUP read and write it and everybody read it"]),
        (0o620, ["mode 0620 lets group GROUP write it"]),
    ],
)
def test_a_map_that_others_may_open_is_told_with_who_may_what(
    tmp_path: Path, mode: int, told: list[str]
) -> None:
    group = grp.getgrgid(MINE).gr_name
    found = [pin.reason for pin in open_pins(loaded(tmp_path, None, map=mode))]

    assert found == [text.replace("GROUP", group) for text in told]


@pytest.mark.parametrize(
    ("access", "mode", "wanted"),
    [
        (Access(MINE, 0o640), 0o640, []),
        (Access(MINE, 0o640), 0o600, []),
        (Access(MINE, 0o640), 0o660, [0o640]),
        (Access(MINE, 0o640), 0o644, [0o640]),
        (Access(MINE + 1, 0o640), 0o640, [0o600]),
        (Access(None, 0o644), 0o644, []),
    ],
)
def test_what_the_manifest_says_is_not_told(
    tmp_path: Path, access: Access, mode: int, wanted: list[int]
) -> None:
    found = list(open_pins(loaded(tmp_path, access, map=mode)))

    assert [pin.mode for pin in found] == wanted


def test_programs_and_links_are_for_nobody_else(tmp_path: Path) -> None:
    access = Access(MINE, 0o640)
    found = open_pins(loaded(tmp_path, access, map=0o640, program=0o640, link=0o640))

    assert [pin.path.name for pin in found] == ["program", "link"]


def test_a_pin_that_went_away_is_not_told(tmp_path: Path) -> None:
    found = loaded(tmp_path, None, map=0o644)
    (tmp_path / "map").unlink()

    assert list(open_pins(found)) == []
