"""What beside the sets is ours to undo, and what is somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps import layouts
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import AttachPoint, Manifest
from bpfpin.sets.leftover import left_stages

MANIFEST = Manifest(
    tool="0.1.0",
    object="/srv/prog.o",
    sha256="ab" * 32,
    generation=1,
    time=1_790_000_000,
    place=AttachPoint(netns_inode=4026531840, netns="", ifindex=7, device="lab0"),
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Directory]:
    with Directory.open(tmp_path) as directory:
        yield directory


def stage(root: Directory, name: str = "lab0~stage", mode: int = 0o700) -> Path:
    path = root.path / name
    path.mkdir()
    path.chmod(mode)
    return path


def test_a_root_without_stages_has_none(root: Directory) -> None:
    for name in ("lab0", "bpfpin~", "tc"):
        root.mark(name)
    (root.path / "~stage").mkdir()

    assert left_stages(root) == []


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["programs~/", "links~/"],
        ["xdp_stats_map"],
        ["%2ebss", "layouts~/", "manifest~"],
        ["previous~/", "manifest~", "commit~/"],
        ["manifest~", "abort~/"],
    ],
)
def test_each_step_of_a_load_or_unload_is_known_again(root: Directory, content: list[str]) -> None:
    path = stage(root)
    for entry in content:
        if entry.endswith("/"):
            (path / entry).mkdir()
        elif entry == "manifest~":
            (path / entry).symlink_to(MANIFEST.to_text())
        else:
            (path / entry).touch()
    (found,) = left_stages(root)

    assert (found.name, found.path, found.foreign) == ("lab0", path, "")
    assert found.is_committed is ("commit~/" in content)


# What stands beside the sets, and not in one.
BESIDE = {names.LOCK_DIRECTORY, names.STAGE_SUFFIX}
OF_A_SET = {
    text
    for name, text in vars(names).items()
    if name.isupper() and isinstance(text, str) and text.endswith("~") and text not in BESIDE
}


def test_every_name_of_ours_in_a_set_stands_in_one_of_the_tables() -> None:
    assert OF_A_SET == names.PARTS | names.MARKS | names.TEXTS
    assert layouts.DIRECTORY == names.LAYOUTS


@pytest.mark.parametrize("entry", sorted(OF_A_SET))
def test_no_name_of_ours_makes_a_stage_foreign(root: Directory, entry: str) -> None:
    path = stage(root) / entry
    path.symlink_to("{}") if entry in names.TEXTS else path.mkdir()
    if entry in (names.COMMIT, names.ABORT):
        (path.parent / names.MANIFEST).symlink_to(MANIFEST.to_text())
    (found,) = left_stages(root)

    assert found.foreign == ""


@pytest.mark.parametrize("mark", [names.COMMIT, names.ABORT])
@pytest.mark.parametrize(
    ("text", "why"), [("", "no manifest"), ("{}", "damaged")], ids=["none", "damaged"]
)
def test_a_mark_of_a_change_without_its_manifest_is_not_ours(
    root: Directory, mark: str, text: str, why: str
) -> None:
    path = stage(root)
    (path / mark).mkdir()
    if text:
        (path / names.MANIFEST).symlink_to(text)
    (found,) = left_stages(root)

    assert why in found.foreign
    assert found.advice.endswith(f"if nobody needs it: rm -r {path}")


@pytest.mark.parametrize(
    ("entry", "make"),
    [
        ("mine", Path.mkdir),
        ("other~", Path.mkdir),
        ("pin~1", Path.touch),
        ("current", lambda path: path.symlink_to("v1")),
    ],
)
def test_a_stage_that_holds_something_else_is_not_ours(
    root: Directory, entry: str, make: object
) -> None:
    assert callable(make)
    make(stage(root) / entry)
    (found,) = left_stages(root)

    assert found.foreign == f"it holds {entry!r}, which bpfpin does not make there"


def test_a_stage_that_others_may_write_is_not_ours(root: Directory) -> None:
    stage(root, mode=0o770)
    (found,) = left_stages(root)

    assert found.foreign == "others may write it (mode 0770)"


def test_a_name_that_no_set_has_is_not_ours(root: Directory) -> None:
    stage(root, "a~b~stage")
    (found,) = left_stages(root)

    assert found.foreign == "no set of ours has such a name"


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/tmp")])
def test_what_is_no_directory_is_not_ours(root: Directory, make: object) -> None:
    assert callable(make)
    make(root.path / "lab0~stage")
    (found,) = left_stages(root)

    assert found.foreign == "it is not a directory"
