"""The lock of a pin root: held by one, waited for without work, gone with its holder."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpfpin.errors import LockTimeoutError, UnsafePathError
from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import holder, locked, remove_lock
from bpfpin.pins.names import LOCK_DIRECTORY
from bpfpin.syscall import fs
from support.cli import run_cli
from support.here import run_here
from support.isolation import umount
from support.wait import HANG_S, wait_until

NOBODY = 65534


@pytest.fixture
def root(bpffs: Path) -> Iterator[Directory]:
    with pin_roots.open_to_change(bpffs) as directory:
        yield directory
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "bpfpin-lock"])


def waiting(root: Directory) -> int:
    """Return how many stand in the kernel's queue for the lock."""
    inode = f":{root.stat(names.LOCK_DIRECTORY).st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return len([line for line in lines if "-> FLOCK" in line and inode in line])


def test_the_lock_names_its_holder_and_ends_with_the_block(root: Directory) -> None:
    with locked(root, timeout_s=0):
        held_by = holder(root)

    assert held_by == os.getpid()
    assert holder(root) is None


@pytest.mark.parametrize("timeout_s", [0, 0.05])
def test_who_waits_too_long_is_told_who_holds_it(root: Directory, timeout_s: float) -> None:
    with (
        locked(root, timeout_s=0),
        pytest.raises(LockTimeoutError, match=f"for {timeout_s:g} seconds") as refused,
    ):
        locked(root, timeout_s=timeout_s).__enter__()

    assert refused.value.holder == f"pid {os.getpid()}"
    assert f"process {os.getpid()} has been changing {root.path}" in str(refused.value)
    assert "lock_timeout_s=SECONDS" in refused.value.hint


def test_a_holder_in_a_pid_namespace_out_of_sight_is_no_dead_process(root: Directory) -> None:
    """/proc/locks leaves its lock out there."""
    script = f"""
from pathlib import Path
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import holder
from bpfpin.pins.pinset import PinSet
with Directory.open(Path({str(root.path)!r})) as root:
    print(holder(root), PinSet.read(root.path, "left").reason, sep=": ")
"""

    def seen_from_outside() -> str:
        command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with locked(root, timeout_s=0):
        root.mark("left~stage")
        during = seen_from_outside()
    after = seen_from_outside()

    assert during == "0: another process is changing it\n"
    assert after.startswith("None: half-built by a dead process; ")


def test_who_gave_up_does_not_keep_the_lock(root: Directory) -> None:
    with locked(root, timeout_s=0), pytest.raises(LockTimeoutError):
        locked(root, timeout_s=0.05).__enter__()

    # Its thread may still have to come to its turn, in which it lets go.
    with locked(root, timeout_s=HANG_S):
        assert holder(root) == os.getpid()


def queue_up(thread: threading.Thread, root: Directory) -> None:
    before = waiting(root)
    thread.start()
    wait_until(lambda: waiting(root) > before)


def test_all_who_wait_get_it_in_turn(root: Directory) -> None:
    turns: list[str] = []

    def take(name: str) -> None:
        with locked(root, timeout_s=60):
            turns.append(f"{name} in")
            turns.append(f"{name} out")

    threads = [threading.Thread(target=take, args=(name,)) for name in ("first", "second", "third")]
    with locked(root, timeout_s=0):
        for thread in threads:
            queue_up(thread, root)
    for thread in threads:
        thread.join()

    assert turns == ["first in", "first out", "second in", "second out", "third in", "third out"]


def test_waiting_is_no_work(root: Directory) -> None:
    """Of a second's wait less than a fiftieth is spent on a CPU, and nothing wakes it up."""
    with locked(root, timeout_s=0):
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        began, cpu_began = time.monotonic(), time.process_time()
        with pytest.raises(LockTimeoutError):
            locked(root, timeout_s=1).__enter__()
        waited, cpu = time.monotonic() - began, time.process_time() - cpu_began
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - switches

    assert waited >= 1
    assert cpu < waited / 50
    assert switches < 20


def interrupt_when_waiting(root: Directory) -> None:
    wait_until(lambda: waiting(root) == 1)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_waiting_leaves_nothing_held(root: Directory) -> None:
    with locked(root, timeout_s=0):
        interrupter = threading.Thread(target=interrupt_when_waiting, args=(root,))
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            locked(root, timeout_s=60).__enter__()
        interrupter.join()

    wait_until(lambda: holder(root) is None)
    with locked(root, timeout_s=0):
        assert waiting(root) == 0


def test_a_command_that_gave_up_ends_although_the_lock_is_still_held(root: Directory) -> None:
    words = ["load", "--dev", "lo", "--pin-root", root.path, "--lock-timeout", "0.1"]
    with locked(root, timeout_s=0):
        refused = run_cli(*words)

    assert refused.exit_code == 7
    assert f"process {os.getpid()} has been changing {root.path}" in refused.stderr


def test_a_process_forked_in_the_block_does_not_keep_the_lock(root: Directory) -> None:
    with locked(root, timeout_s=0):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    held_by = holder(root)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert held_by is None


def test_a_process_forked_in_the_block_does_not_end_the_lock(root: Directory) -> None:
    with ExitStack() as block:
        block.enter_context(locked(root, timeout_s=0))
        child = os.fork()
        if not child:
            block.close()
            os._exit(0)
        os.waitpid(child, 0)

        assert holder(root) == os.getpid()


def test_a_lock_directory_of_somebody_else_is_refused(root: Directory) -> None:
    root.mark(names.LOCK_DIRECTORY)
    os.chown(root.path / names.LOCK_DIRECTORY, NOBODY, NOBODY)

    with pytest.raises(UnsafePathError, match="belongs to"), locked(root, timeout_s=0):
        pass


def taken(root: Directory, kind: str) -> Path:
    """Let another user take the name of the lock's directory, and return its path."""
    place = root.path / names.LOCK_DIRECTORY
    if kind == "symlink":
        place.symlink_to("/etc")
        os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
    elif kind == "directory":
        place.mkdir(0o755)
        os.chown(place, NOBODY, NOBODY)
    else:
        place.mkdir(0o777)
        place.chmod(0o777)
    return place


@pytest.mark.parametrize(
    ("kind", "what", "fix"),
    [
        ("symlink", "a symbolic link, made by nobody (uid 65534)", "rm {}"),
        ("directory", "a directory that is not safe: it belongs to nobody", "rmdir {}"),
        ("open to all", "others may write it (mode 0777)", "chmod 0700 {}"),
    ],
)
def test_who_takes_the_locks_name_is_told_and_readers_go_on(
    root: Directory, kind: str, what: str, fix: str
) -> None:
    place = taken(root, kind)
    try:
        with pytest.raises(UnsafePathError) as refused:
            locked(root, timeout_s=0).__enter__()
        assert what in str(refused.value)
        assert refused.value.path == str(place)
        assert refused.value.hint.startswith(fix.format(place))
        assert f"chmod 0755 {root.path}" in refused.value.hint

        assert holder(root) is None
        for words in (["map", "list"], ["graph"]):
            assert run_here(*words, "--pin-root", root.path).exit_code == 0
        status = run_here("status", "--pin-root", root.path)
        assert (status.exit_code, what in status.stderr) == (0, True)
        assert what in run_here("doctor", "--pin-root", root.path).stdout
        assert "nothing is on trial" in run_here("confirm", "--pin-root", root.path).stderr
        loaded = run_here("load", "--dev", "lo", "--pin-root", root.path)
        assert (loaded.exit_code, what in loaded.stderr) == (7, True)
    finally:
        place.unlink() if place.is_symlink() else place.rmdir()


def test_a_bpffs_that_we_mount_lets_nobody_else_in(tmp_path: Path) -> None:
    fs.mount_bpffs(tmp_path)
    try:
        assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o777 == 0o700
    finally:
        umount(tmp_path)


def test_who_waits_for_a_lock_whose_directory_goes_gets_that_of_the_next_one(bpffs: Path) -> None:
    """Removed while it is held, and made anew by another command before the waiter looks."""
    with Directory.open(bpffs) as root, ExitStack() as opened:
        first = opened.enter_context(ExitStack())
        first.enter_context(locked(root, timeout_s=0))
        taken = threading.Event()

        def wait_for_it() -> None:
            with Directory.open(bpffs) as mine, locked(mine, timeout_s=60):
                there = mine.stat(LOCK_DIRECTORY).st_ino
                with mine.child(LOCK_DIRECTORY) as directory:
                    assert directory.status.st_ino == there
                taken.set()

        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        wait_until(lambda: waiting(root) == 1)
        assert remove_lock(root)
        with locked(root, timeout_s=0):
            first.close()
            assert not taken.wait(0.2)
        waiter.join()

        assert taken.is_set()


def test_a_lock_directory_with_something_in_it_stays(bpffs: Path) -> None:
    with Directory.open(bpffs) as root, locked(root, timeout_s=0):
        with root.child(LOCK_DIRECTORY) as directory:
            directory.mark("confirm~1")
        assert not remove_lock(root)
        with root.child(LOCK_DIRECTORY) as directory:
            directory.rmdir("confirm~1")
