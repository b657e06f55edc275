"""One reader at a time: another user can neither take root's place nor pretend to read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpfpin import Map, MapSpec, MapType
from bpfpin.errors import BusyError
from bpfpin.syscall import exclusive_name
from support.nobody import NOBODY, nobody

KIND = "ringbuf"
# A process of another user, which takes names and answers "ready"; it ends with its stdin.
SQUATTER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
held = []
for name in sys.argv[2:]:
    taker = socket.socket(socket.AF_UNIX)
    taker.bind("\\0" + name)
    if sys.argv[1] == "listens":
        taker.listen(0)
    if sys.argv[1] == "is full":
        taker.listen(0)
        for _ in range(4):
            caller = socket.socket(socket.AF_UNIX); caller.setblocking(False)
            try: caller.connect("\\0" + name)
            except BlockingIOError: pass
            held.append(caller)
    held.append(taker)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ring() -> Iterator[Map]:
    with Map.create(MapSpec("events", MapType.ARRAY, 4, 4, 1)) as held:
        yield held


@pytest.fixture(autouse=True)
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for root's locks that is the test's own, and that all may look into."""
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(exclusive_name, "CLAIMS", tmp_path / "claims")
    return tmp_path / "claims"


def names(ring: Map) -> list[str]:
    return [f"bpfpin/{KIND}/{ring.id}", *(f"bpfpin/{KIND}/{ring.id}/{uid}" for uid in (0, NOBODY))]


@pytest.mark.parametrize("how", ["only binds", "listens", "is full"])
def test_who_takes_the_names_first_keeps_nobody_away(ring: Map, how: str) -> None:
    """Root least of all, of whom there is still one at a time."""
    command = [sys.executable, "-c", SQUATTER, how, *names(ring)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "ready\n"
        with exclusive_name.acquire(KIND, ring.id, target="map events"):
            with pytest.raises(BusyError, match=f"by process {os.getpid()} already"):
                exclusive_name.acquire(KIND, ring.id, target="map events")
            with nobody(group=100), pytest.raises(BusyError, match=f"process {os.getpid()}"):
                exclusive_name.acquire(KIND, ring.id, target="map events")
        exclusive_name.acquire(KIND, ring.id, target="map events").close()
        squatter.communicate("")


def test_another_user_who_has_the_map_open_does_count(ring: Map) -> None:
    """He reads by right: root is told who it is."""
    with nobody():
        claim = exclusive_name.acquire(KIND, ring.id, target="map events")
    with claim, pytest.raises(BusyError) as refused:
        exclusive_name.acquire(KIND, ring.id, target="map events")

    assert refused.value.holder == f"pid {os.getpid()}"
    exclusive_name.acquire(KIND, ring.id, target="map events").close()


def test_two_of_one_user_are_told_apart_from_two_maps(ring: Map) -> None:
    with nobody(), exclusive_name.acquire(KIND, ring.id, target="map events"):
        with pytest.raises(BusyError):
            exclusive_name.acquire(KIND, ring.id, target="map events")
        exclusive_name.acquire(KIND, ring.id + 1, target="another map").close()
        exclusive_name.acquire("user_ringbuf", ring.id, target="another use").close()


def test_the_claim_leaves_nothing_and_a_killed_one_is_swept(ring: Map, claims: Path) -> None:
    with exclusive_name.acquire(KIND, ring.id, target="map events"):
        assert [path.name for path in claims.iterdir()] == [f"{KIND}-{ring.id}"]
        assert (claims / f"{KIND}-{ring.id}").stat().st_mode & 0o777 == 0o600
    assert list(claims.iterdir()) == []

    (claims / f"{KIND}-4000000000").touch()
    (claims / "something-else").touch()
    with exclusive_name.acquire(KIND, ring.id, target="map events"):
        assert sorted(path.name for path in claims.iterdir()) == [
            f"{KIND}-{ring.id}",
            "something-else",
        ]


@pytest.mark.parametrize("kind", ["symlink", "directory", "writable", "missing"])
def test_a_place_that_is_not_roots_alone_is_not_used(
    ring: Map, claims: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = claims.parent / "elsewhere"
    elsewhere.mkdir()
    if kind == "symlink":
        claims.symlink_to(elsewhere)
    elif kind == "directory":
        claims.mkdir()
        os.chown(claims, NOBODY, NOBODY)
    elif kind == "writable":
        claims.mkdir()
        claims.chmod(0o777)
    else:
        monkeypatch.setattr(exclusive_name, "CLAIMS", claims / "none" / "claims")
    with exclusive_name.acquire(KIND, ring.id, target="map events"):
        assert list(elsewhere.iterdir()) == []
        with pytest.raises(BusyError):  # by the socket
            exclusive_name.acquire(KIND, ring.id, target="map events")


def test_root_in_another_network_namespace_is_seen(ring: Map) -> None:
    script = f"""
import sys
from pathlib import Path
from bpfpin.errors import BusyError
from bpfpin.syscall import exclusive_name
exclusive_name.CLAIMS = Path({str(exclusive_name.CLAIMS)!r})
try:
    exclusive_name.acquire({KIND!r}, {ring.id}, target="map events")
except BusyError as error:
    print(error.holder)
"""
    with exclusive_name.acquire(KIND, ring.id, target="map events"):
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
        )

    assert done.stdout == f"pid {os.getpid()}\n"


def test_a_forked_process_does_not_end_the_claim(ring: Map) -> None:
    with exclusive_name.acquire(KIND, ring.id, target="map events") as claim:
        if not (child := os.fork()):
            claim.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(BusyError):
            exclusive_name.acquire(KIND, ring.id, target="map events")


def test_a_flood_of_names_ends_at_a_limit(ring: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusive_name, "_SOCKETS_MAX", 5)
    with ExitStack() as stack:
        for number in range(20):
            taker = stack.enter_context(socket.socket(socket.AF_UNIX))
            taker.bind(f"\0bpfpin/{KIND}/{ring.id}/x{number}")
        assert len(exclusive_name._names(f"bpfpin/{KIND}/{ring.id}/", set())) == 5
        exclusive_name.acquire(KIND, ring.id, target="map events").close()
