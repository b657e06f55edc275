"""Pin sets in a bpffs: built aside, published at once, undone or finished by whoever comes next."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.errors import NotBpffsError, PinNotFoundError, SyscallError, UnsafePathError
from bpfpin.objects.maps.map import Map
from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins import names, ownership, targets
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import AttachPoint, Manifest
from bpfpin.pins.pinset import PinSet, SetState, pin_sets
from bpfpin.pins.recover import Recovery, recover
from bpfpin.pins.transaction import Stage, next_generation, remove
from bpfpin.sets.live import reopen
from bpfpin.spec import MapSpec
from bpfpin.syscall.fs import Rename
from bpfpin.syscall.signals import signals_deferred
from bpfpin.uapi import MapType

NOBODY = 65534
MANIFEST = Manifest("0.1.0", "x.o", "00" * 32, 1, 0, AttachPoint(device="lab0", ifindex=7))


@pytest.fixture
def root(bpffs: Path) -> Iterator[Directory]:
    with pin_roots.open_to_change(bpffs) as directory:
        yield directory


@pytest.fixture
def counters() -> Iterator[Map]:
    with Map.create(MapSpec("counters", MapType.ARRAY, 4, 8, 1)) as made:
        yield made


def ours(root: Directory) -> list[str]:
    """Return the names in *root* but the kernel's own, the only ones with a dot."""
    return [name for name in root.names() if "." not in name]


def fill(stage: Stage, held: Map) -> None:
    stage.pin_map("counters", held)
    stage.write_manifest(MANIFEST)


def publish(root: Directory, held: Map) -> None:
    with next_generation(root, "lab0", reopen) as stage:
        fill(stage, held)


def test_a_published_set_reads_back(root: Directory, counters: Map) -> None:
    publish(root, counters)
    found = PinSet.read(root.path, "lab0")

    assert (found.state, found.manifest) == (SetState.OK, MANIFEST)
    assert found.maps == {"counters": root.path / "lab0" / "counters"}
    assert [one.name for one in pin_sets(root.path)] == ["lab0"]
    assert ours(root) == ["lab0"]


def test_a_data_map_is_pinned_under_its_encoded_name(root: Directory, counters: Map) -> None:
    with next_generation(root, "lab0", reopen) as stage:
        stage.pin_map(".bss", counters)
        stage.write_manifest(MANIFEST)

    assert PinSet.read(root.path, "lab0").maps == {".bss": root.path / "lab0" / "%2ebss"}


def publish_and_raise(root: Directory, held: Map, error: BaseException) -> None:
    with next_generation(root, "lab0", reopen) as stage:
        fill(stage, held)
        raise error


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_whatever_ends_the_building_leaves_nothing(
    root: Directory, counters: Map, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        publish_and_raise(root, counters, error)

    assert ours(root) == []


def test_a_failure_leaves_the_old_generation(root: Directory, counters: Map) -> None:
    publish(root, counters)
    with pytest.raises(ValueError, match="late"), next_generation(root, "lab0", reopen):
        raise ValueError("late")

    assert PinSet.read(root.path, "lab0").state is SetState.OK
    assert ours(root) == ["lab0"]


def interrupt_while_deferred(steps: list[str]) -> None:
    with signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        for number in range(1_000):  # many instructions between which Python looks for signals
            steps.append(f"step {number}")


def test_ctrl_c_waits_for_the_end_of_what_must_not_be_cut() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_while_deferred(steps)

    assert steps[-1] == "step 999"


def test_ctrl_c_waits_although_another_thread_could_take_it() -> None:
    steps: list[str] = []
    is_over = threading.Event()
    other = threading.Thread(target=is_over.wait)
    other.start()
    try:
        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                interrupt_while_deferred(steps)
    finally:
        is_over.set()
        other.join()

    assert steps.count("step 999") == 20


def test_a_stage_without_a_mark_is_undone(root: Directory, counters: Map) -> None:
    with Stage(root, "lab0") as stage:
        fill(stage, counters)

    assert PinSet.read(root.path, "lab0").state is SetState.HALF_BUILT
    assert recover(root, "lab0", reopen) is Recovery.UNDONE
    assert ours(root) == []


def test_a_stage_with_a_mark_is_finished(root: Directory, counters: Map) -> None:
    with Stage(root, "lab0") as stage:
        fill(stage, counters)
        stage.commit()

    assert recover(root, "lab0", reopen) is Recovery.FINISHED
    assert PinSet.read(root.path, "lab0").state is SetState.OK
    assert ours(root) == ["lab0"]
    assert recover(root, "lab0", reopen) is Recovery.NOTHING


class _KilledError(Exception):
    """Stands for the end of a process between two system calls."""


def removed_up_to(number: int, generation: Directory, patch: pytest.MonkeyPatch) -> bool:
    """Remove a generation but end before call *number*; return whether that came."""
    calls = itertools.count(1)

    def counted(call: Callable[[Directory, str], None]) -> Callable[[Directory, str], None]:
        def count(directory: Directory, name: str) -> None:
            if next(calls) == number:
                raise _KilledError
            call(directory, name)

        return count

    with patch.context() as patched:
        for name in ("unlink", "rmdir"):
            patched.setattr(Directory, name, counted(getattr(Directory, name)))
        try:
            ownership.remove_own(generation)
        except _KilledError:
            return True
    return False


@pytest.mark.parametrize("is_unloaded", [False, True], ids=["reload", "unload"])
def test_the_rest_of_a_completed_change_is_removed_and_not_rolled_back(
    root: Directory, counters: Map, monkeypatch: pytest.MonkeyPatch, *, is_unloaded: bool
) -> None:
    """Killed while the old generation was removed, at each call: the change was complete."""
    for number in itertools.count(1 if not is_unloaded else 2):
        publish(root, counters)
        root.rename("lab0", "lab0~stage", Rename.NOREPLACE)
        with root.child("lab0~stage") as old:
            is_killed = removed_up_to(number, old, monkeypatch)
        if not is_unloaded:
            place_next_generation(root, counters)
        told = recover(root, "lab0", reopen)
        left = ours(root)
        if not is_unloaded:
            remove(root, "lab0", reopen)

        assert told is Recovery.REMOVED
        assert left == ([] if is_unloaded else ["lab0"])
        if not is_killed:
            break
    assert number > 6


def place_next_generation(root: Directory, held: Map) -> None:
    """Put generation 2 in the place of the set, past all its marks, with a stage beside it."""
    root.rename("lab0~stage", "kept", Rename.NOREPLACE)
    with Stage(root, "lab0") as stage:
        stage.pin_map("counters", held)
        stage.write_manifest(dataclasses.replace(MANIFEST, generation=2))
    root.rename("lab0~stage", "lab0", Rename.NOREPLACE)
    root.rename("kept", "lab0~stage", Rename.NOREPLACE)


@pytest.mark.parametrize("has_manifest", [True, False])
def test_the_beginning_of_a_change_is_rolled_back(
    root: Directory, counters: Map, *, has_manifest: bool
) -> None:
    publish(root, counters)
    with Stage(root, "lab0") as stage:
        stage.pin_map("counters", counters)
        if has_manifest:
            stage.write_manifest(dataclasses.replace(MANIFEST, generation=2))

    assert recover(root, "lab0", reopen) is Recovery.UNDONE
    assert ours(root) == ["lab0"]


def test_a_mark_left_after_the_exchange_is_cleaned(root: Directory, counters: Map) -> None:
    publish(root, counters)
    with Stage(root, "lab0") as stage:
        fill(stage, counters)
        stage.commit()
    root.rename(names.stage_name("lab0"), "lab0", Rename.EXCHANGE)

    assert recover(root, "lab0", reopen) is Recovery.FINISHED
    assert ours(root) == ["lab0"]
    assert not (root.path / "lab0" / names.COMMIT).exists()


def test_a_next_generation_keeps_the_same_map(root: Directory, counters: Map) -> None:
    publish(root, counters)
    with next_generation(root, "lab0", reopen) as stage, root.child("lab0") as old:
        stage.keep_map("counters", old)
        stage.write_manifest(MANIFEST.without_hooks())

    found = PinSet.read(root.path, "lab0")
    with Map.from_pin(found.maps["counters"]) as kept:
        assert kept.id == counters.id
    assert found.manifest is not None
    assert found.manifest.generation == 2


def test_removing_a_set_leaves_nothing(root: Directory, counters: Map) -> None:
    publish(root, counters)
    remove(root, "lab0", reopen)

    assert ours(root) == []
    with pytest.raises(PinNotFoundError):
        PinSet.read(root.path, "lab0")


def publish_over_a_new_directory(root: Directory, held: Map) -> None:
    with next_generation(root, "lab0", reopen) as stage:
        fill(stage, held)
        root.mark("lab0")


def test_a_directory_made_in_between_is_not_replaced(root: Directory, counters: Map) -> None:
    with pytest.raises(UnsafePathError, match="no manifest"):
        publish_over_a_new_directory(root, counters)

    assert "lab0" in root.names()


def test_a_stage_of_somebody_else_is_left_alone(root: Directory) -> None:
    root.mark("lab0~stage")
    os.chown(root.path / "lab0~stage", NOBODY, NOBODY)

    with pytest.raises(UnsafePathError, match="65534"):
        recover(root, "lab0", reopen)
    assert root.has("lab0~stage")


def test_a_set_of_somebody_else_is_foreign(root: Directory, counters: Map) -> None:
    publish(root, counters)
    os.chown(root.path / "lab0", NOBODY, NOBODY)
    found = PinSet.read(root.path, "lab0")

    assert (found.state, found.manifest) == (SetState.FOREIGN, None)
    assert "65534" in found.reason


def test_a_set_that_others_may_write_is_foreign(root: Directory, counters: Map) -> None:
    publish(root, counters)
    (root.path / "lab0").chmod(0o770)

    assert PinSet.read(root.path, "lab0").reason == "others may write it (mode 0770)"


def test_a_symlink_in_place_of_a_set_is_not_followed(root: Directory, counters: Map) -> None:
    publish(root, counters)
    (root.path / "lab1").symlink_to("lab0")

    assert PinSet.read(root.path, "lab1").state is SetState.FOREIGN


def test_directories_without_a_manifest_are_no_sets(root: Directory) -> None:
    root.mark("tc")

    assert pin_sets(root.path) == []


def test_a_root_that_others_may_write_is_refused_unless_sticky(bpffs: Path) -> None:
    bpffs.chmod(0o1777)
    pin_roots.open_to_change(bpffs).close()
    bpffs.chmod(0o777)

    with pytest.raises(UnsafePathError, match="0777"):
        pin_roots.open_to_change(bpffs)


def test_what_is_no_bpffs_is_told_with_the_mount_line(tmp_path: Path) -> None:
    assert pin_roots.inspect(tmp_path) is RootState.OTHER
    assert pin_roots.inspect(tmp_path / "gone") is RootState.MISSING
    with pytest.raises(NotBpffsError) as refused:
        pin_roots.ensure(tmp_path)
    assert "one is mounted at /sys/fs/bpf" in refused.value.hint


def test_a_text_that_the_kernel_cannot_read_now_is_not_missing(
    root: Directory, counters: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its token, a set that changes together with others would be recovered alone."""
    publish(root, counters)
    with root.child("lab0") as live:
        assert ownership.ObjectIds.read(live) is not None
        live.write_text("targets~", "0" * 16)
        live.mark("no_text")
        assert (targets._text(live), ownership._text(live, "no_text")) == ("0" * 16, "")

        def readlink(*_arguments: object, **_options: object) -> str:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        monkeypatch.setattr(os, "readlink", readlink)
        with pytest.raises(SyscallError, match="readlink: ENOMEM"):
            targets._text(live)
        with pytest.raises(SyscallError, match="readlink: ENOMEM"):
            ownership.ObjectIds.read(live)
