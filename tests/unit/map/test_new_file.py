"""Files that are written as root in a directory where others make names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bpfpin.errors import PermissionDeniedError, UnsafePathError, UsageError
from bpfpin.map.snapshot_file import new_file, resolved, write_text

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    place = tmp_path / "public"
    place.mkdir()
    place.chmod(0o1777)
    return place


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that nobody is to overwrite."""
    file = tmp_path / "shadow"
    file.write_text("secret")
    return file


@as_root
def test_a_symlink_of_another_user_is_not_followed(public: Path, target: Path) -> None:
    link = public / "log"
    link.symlink_to(target)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)

    with pytest.raises(UnsafePathError, match=f"belongs to uid {NOBODY}"):
        write_text(link, "log")
    with pytest.raises(UsageError, match="not a regular file"), new_file(link):
        pass
    assert target.read_text() == "secret"
    assert link.is_symlink()


@as_root
def test_a_directory_that_another_user_linked_is_not_entered(public: Path, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (public / "logs").symlink_to(etc)
    os.chown(public / "logs", NOBODY, NOBODY, follow_symlinks=False)

    for write in (lambda path: write_text(path, "x"), lambda path: new_file(path).__enter__()):
        with pytest.raises(UnsafePathError) as refused:
            write(public / "logs" / "file")
        assert refused.value.path == str(public / "logs")
        assert refused.value.hint
    assert list(etc.iterdir()) == []


def test_a_symlink_in_a_directory_that_all_may_write_is_not_followed(
    tmp_path: Path, target: Path
) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)  # not sticky: anybody may put another link there
    (place / "log").symlink_to(target)

    with pytest.raises(UnsafePathError, match="others may write"):
        write_text(place / "log", "log")
    assert target.read_text() == "secret"


def test_symlinks_of_ones_own_are_followed(public: Path, target: Path) -> None:
    (public / "mine").symlink_to(target.parent)
    (target.parent / "log").symlink_to("shadow")

    write_text(public / "mine" / "log", "new")
    assert target.read_text() == "new"
    assert (target.parent / "log").is_symlink()
    assert resolved(public / ".." / "public" / "mine" / "none" / "x") == target.parent / "none/x"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(UnsafePathError, match="more than 40 symbolic links"):
        write_text(tmp_path / "a", "x")


@as_root
def test_a_file_of_another_user_is_replaced_not_written_into(public: Path) -> None:
    file = public / "log"
    file.write_text("theirs")
    os.chown(file, NOBODY, NOBODY)
    with file.open() as open_before:
        write_text(file, "ours")

        assert open_before.read() == "theirs"
    assert (file.read_text(), file.stat().st_uid) == ("ours", 0)
    assert list(public.iterdir()) == [file]


def test_a_snapshot_is_private_and_a_log_follows_the_umask(public: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(public / "log", "x")
        with new_file(public / "saved") as file:
            file.write(b"x")
    finally:
        os.umask(before)

    assert stat.S_IMODE((public / "log").stat().st_mode) == 0o644
    assert stat.S_IMODE((public / "saved").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name", [b"n" * 255, "ä".encode() * 127 + b"n", "語".encode() * 85, b"\xff" * 255]
)
def test_a_name_of_every_length_and_script_is_written(public: Path, name: bytes) -> None:
    file = public / os.fsdecode(name)
    write_text(file, "x")

    assert file.read_text() == "x"
    assert os.listdir(os.fsencode(public)) == [name]  # noqa: PTH208  (as bytes)


def test_streams_are_written_to(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_text(Path("/dev/null"), "gone")
    write_text(Path("/dev/stderr"), "told\n")

    assert capfd.readouterr().err == "told\n"
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_refusal_names_the_path(tmp_path: Path) -> None:
    for path in (Path("/proc/none"), Path("/sys/none")):
        with pytest.raises((PermissionDeniedError, OSError)) as refused:
            write_text(path, "x")
        assert str(path) in str(refused.value)
