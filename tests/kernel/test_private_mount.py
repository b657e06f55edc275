"""A bpffs that ends with a mount namespace: refused, unless it is meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bpfpin import Map, MapSpec, MapType, PrivateMountError, deploy
from bpfpin.map.pinning import pin_map
from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins.bpffs import PRIVATE_MOUNT
from bpfpin.syscall import fs
from support.here import run_here

WHY = "mounted in this process's mount namespace alone"
# Where process 1 is the shell: each line is looked at from a mount namespace below it.
HOST = """
set -e
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mkdir /sys/fs/bpf/below
look() { "$PYTHON" -P -c "
from pathlib import Path
from bpfpin.pins.bpffs import private_reason
print('$1:', private_reason(Path('${2:-/sys/fs/bpf}')) or 'lasts')"; }
export -f look
look "process 1 itself"
unshare --mount --propagation private bash -c 'look inherited; look "a directory" /sys/fs/bpf/below'
unshare --mount --propagation private bash -c '
  mount -t bpf bpf /sys/fs/bpf; look "mounted over it"'
unshare --mount --propagation private bash -c '
  mkdir /run/b; mount --bind /sys/fs/bpf /run/b; look "bound elsewhere" /run/b'
while umount /sys/fs/bpf 2>/dev/null; do :; done  # that of the tests, too
unshare --mount --propagation private bash -c 'look "none, private"'
mount --make-shared /sys
unshare --mount --propagation unchanged bash -c 'look "none, shared"'
unshare --mount --propagation slave bash -c 'look "none, slave"'
true  # bash would become its last command, and that process 1
"""


def test_what_process_1_sees_lasts() -> None:
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
    done = subprocess.run(
        [*command, "bash", "-c", HOST],
        env={"PYTHON": sys.executable, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    seen = dict(line.split(": ", 1) for line in done.stdout.splitlines())

    assert done.returncode == 0, done.stderr
    assert seen == {
        "process 1 itself": "lasts",
        "inherited": "lasts",
        "a directory": "lasts",
        "mounted over it": f"this bpffs is {WHY}",
        "bound elsewhere": "lasts",
        "none, private": f"a bpffs would be {WHY}",
        "none, shared": "lasts",
        "none, slave": f"a bpffs would be {WHY}",
    }


@pytest.fixture
def unmeant(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bpffs of the test's own, where nobody said that it is meant to be so."""
    monkeypatch.delenv(PRIVATE_MOUNT)
    return bpffs


def pins(root: Path) -> list[str]:
    """Return the names in a bpffs, without the kernel's own (maps.debug)."""
    return [path.name for path in root.iterdir() if "." not in path.name]


def test_load_refuses_with_the_reason_and_makes_nothing(unmeant: Path) -> None:
    for more in ([], ["--dry-run"]):
        refused = run_here("load", "--dev", "lo", "--pin-root", unmeant, *more)
        assert (refused.exit_code, WHY in refused.stderr) == (5, True)
        assert "--private-mount" in refused.stderr
    assert pins(unmeant) == []
    with pytest.raises(PrivateMountError) as raised:
        deploy("builtin:xdp_pass", device="lo", pin_root=unmeant)
    assert raised.value.path == str(unmeant)

    meant = run_here("load", "--dev", "lo", "--pin-root", unmeant, "--private-mount")
    assert meant.exit_code == 0, meant.stderr
    # Who has it may change and remove it: nothing new is promised.
    assert run_here("unload", "lo", "--pin-root", unmeant).exit_code == 0
    with deploy("builtin:xdp_pass", device="lo", pin_root=unmeant, private_mount=True):
        assert run_here("unload", "lo", "--pin-root", unmeant).exit_code == 0


def test_the_variable_says_the_same(unmeant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "0", "no"):
        monkeypatch.setenv(PRIVATE_MOUNT, value)
        with pytest.raises(PrivateMountError):
            pin_roots.require_lasting(unmeant)
    monkeypatch.setenv(PRIVATE_MOUNT, "1")

    pin_roots.require_lasting(unmeant)


def test_a_map_is_not_pinned_there_either(unmeant: Path) -> None:
    with Map.create(MapSpec("flows", MapType.ARRAY, 4, 4, 1)) as held:
        refused = run_here("map", "pin", f"id:{held.id}", unmeant / "flows")
        assert (refused.exit_code, WHY in refused.stderr) == (5, True)
        pin_map(f"id:{held.id}", unmeant / "flows", private_mount=True)
    assert pins(unmeant) == ["flows"]


def test_doctor_tells_it(unmeant: Path) -> None:
    (check,) = [
        one
        for one in run_here("doctor", "--pin-root", unmeant, "-o", "json").json["checks"]
        if one["name"] == "mount namespace"
    ]

    assert check["ok"] is False
    assert WHY in check["text"]
    assert "--private-mount" in check["fix"]


def test_readers_do_not_ask(unmeant: Path) -> None:
    for words in (["status"], ["map", "list"], ["graph"], ["clean"]):
        assert run_here(*words, "--pin-root", unmeant).exit_code == 0


def test_where_process_1_does_not_show_nothing_is_refused(
    unmeant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs, "INIT_MOUNTINFO", Path("/nowhere"))

    assert pin_roots.private_reason(unmeant) == ""
