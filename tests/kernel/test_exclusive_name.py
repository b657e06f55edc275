"""One reader at a time: another user can neither take root's place nor pretend to read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bpfpin import Map, MapSpec, MapType
from bpfpin.errors import BusyError, SyscallError
from bpfpin.syscall import exclusive_name
from support.descriptors import none_left
from support.nobody import NOBODY, nobody

KIND = "ringbuf"
NO_FAMILY = (
    0  # sock_diag(7) knows no sockets of it (ENOENT), as if a kernel lacked CONFIG_UNIX_DIAG
)
# A process of another user, which takes names and answers "ready"; it ends with its stdin.
SQUATTER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
held = []
for name in sys.argv[2:]:
    if sys.argv[1] == "fills":
        for _ in range(129):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].connect("\\0" + name)
        continue
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


@contextmanager
def squatting(how: str, *taken: str) -> Iterator[None]:
    """Let a process of another user take the names."""
    command = [sys.executable, "-c", SQUATTER, how, *taken]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "ready\n"
        yield
        squatter.communicate("")


@pytest.mark.parametrize("how", ["only binds", "listens", "is full"])
def test_who_takes_the_names_first_keeps_nobody_away(ring: Map, how: str) -> None:
    """Root least of all, of whom there is still one at a time."""
    with squatting(how, *names(ring)):
        with exclusive_name.acquire(KIND, ring.id, target="map events"):
            with pytest.raises(BusyError, match=f"by process {os.getpid()} already"):
                exclusive_name.acquire(KIND, ring.id, target="map events")
            with nobody(group=100), pytest.raises(BusyError, match=f"process {os.getpid()}"):
                exclusive_name.acquire(KIND, ring.id, target="map events")
        exclusive_name.acquire(KIND, ring.id, target="map events").close()


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


@pytest.fixture(params=["sock_diag", "/proc/net/unix"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How other sockets are found: a kernel may lack CONFIG_UNIX_DIAG."""
    if request.param != "sock_diag":
        monkeypatch.setattr(exclusive_name, "DIAG_FAMILY", NO_FAMILY)
    return str(request.param)


@pytest.mark.usefixtures("source")
def test_more_askers_than_a_backlog_holds_are_all_refused(ring: Map) -> None:
    """Nobody accepts their connections: after 129 of them connect(2) gives EAGAIN."""
    with nobody(), exclusive_name.acquire(KIND, ring.id, target="map events"):
        for _ in range(135):
            with pytest.raises(BusyError, match=f"by process {os.getpid()} already"):
                exclusive_name.acquire(KIND, ring.id, target="map events")


def test_a_holder_whose_backlog_another_user_filled_is_still_seen(ring: Map) -> None:
    """Root has no lock here, and finds it, too: the map is open in that process."""
    with nobody():
        claim = exclusive_name.acquire(KIND, ring.id, target="map events")
    with claim, squatting("fills", f"bpfpin/{KIND}/{ring.id}/{NOBODY}"):
        with pytest.raises(BusyError) as refused:
            exclusive_name.acquire(KIND, ring.id, target="map events")
        with nobody(), pytest.raises(BusyError):
            exclusive_name.acquire(KIND, ring.id, target="map events")

    assert refused.value.holder == f"pid {os.getpid()}"


@pytest.mark.usefixtures("source")
def test_a_full_socket_of_another_user_does_not_keep_root_away(ring: Map) -> None:
    with squatting("is full", *names(ring)):
        exclusive_name.acquire(KIND, ring.id, target="map events").close()


def test_a_full_socket_of_unknown_owner_counts_for_ordinary_users(ring: Map, source: str) -> None:
    """Only without CONFIG_UNIX_DIAG its owner is unknown: two readers would lose events."""
    with squatting("is full", *names(ring)), nobody(uid=NOBODY - 1):
        if source == "sock_diag":
            exclusive_name.acquire(KIND, ring.id, target="map events").close()
            return
        with pytest.raises(BusyError, match="another process may read") as refused:
            exclusive_name.acquire(KIND, ring.id, target="map events")

    assert refused.value.holder == ""


@pytest.mark.parametrize("backlog", ["empty", "full"])
def test_a_holder_in_a_pid_namespace_out_of_sight_is_seen(
    ring: Map, source: str, backlog: str
) -> None:
    """SO_PEERCRED gives its uid, and 0 for its pid."""
    script = f"""
import os
from pathlib import Path
from bpfpin.errors import BusyError
from bpfpin.syscall import exclusive_name
exclusive_name.CLAIMS = Path({str(exclusive_name.CLAIMS)!r})
exclusive_name.DIAG_FAMILY = {exclusive_name.DIAG_FAMILY}
os.seteuid({NOBODY})
try:
    exclusive_name.acquire({KIND!r}, {ring.id}, target="map events")
except BusyError as error:
    print(error)
"""
    with nobody():
        claim = exclusive_name.acquire(KIND, ring.id, target="map events")
    with claim, ExitStack() as filled:
        for _ in range(129 if backlog == "full" else 0):
            caller = filled.enter_context(socket.socket(socket.AF_UNIX))
            caller.connect(f"\0bpfpin/{KIND}/{ring.id}/{NOBODY}")
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
        )

    assert done.stdout == (
        "map events is read or written by another process already\n"
        if (source, backlog) != ("/proc/net/unix", "full")
        else "map events: another process may read or write it already: who listens on the sockets"
        f" @bpfpin/{KIND}/{ring.id}/ is not visible here\n"
    )


def test_a_flood_of_names_ends_at_a_limit_for_each_user(
    ring: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hides no claim of root, of the same user or of a third one."""
    monkeypatch.setattr(exclusive_name, "_SOCKETS_MAX", 5)
    prefix = f"bpfpin/{KIND}/{ring.id}/"
    with squatting("listens", *(f"{prefix}{number}" for number in range(200))):
        found, is_whole = exclusive_name._others(prefix, set())
        exclusive_name.acquire(KIND, ring.id, target="map events").close()
        with nobody(uid=NOBODY - 1):
            claim = exclusive_name.acquire(KIND, ring.id, target="map events")
            with claim, pytest.raises(BusyError):
                exclusive_name.acquire(KIND, ring.id, target="map events")
            claim = exclusive_name.acquire(KIND, ring.id, target="map events")
        with claim, pytest.raises(BusyError):
            exclusive_name.acquire(KIND, ring.id, target="map events")

    assert ([one.uid for one in found], is_whole) == ([NOBODY] * 5, False)


def test_a_flood_does_not_hide_a_claim_where_owners_are_unknown(
    ring: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive_name, "_SOCKETS_MAX", 5)
    monkeypatch.setattr(exclusive_name, "DIAG_FAMILY", NO_FAMILY)
    prefix = f"bpfpin/{KIND}/{ring.id}/"
    with squatting("listens", *(f"{prefix}{number}" for number in range(200))):
        exclusive_name.acquire(KIND, ring.id, target="map events").close()
        with nobody(uid=NOBODY - 1), pytest.raises(BusyError, match="another process may read"):
            exclusive_name.acquire(KIND, ring.id, target="map events")


def test_lines_that_somebody_wrote_into_the_list_of_sockets_are_no_sockets(
    ring: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not escape the bytes of a name there."""
    monkeypatch.setattr(exclusive_name, "DIAG_FAMILY", NO_FAMILY)
    prefix = f"bpfpin/{KIND}/{ring.id}/"
    with socket.socket(socket.AF_UNIX) as taker, nobody():
        taker.bind(f"\0\n0: 2 0 10000 0001 01 7 @{prefix}1\nx: x x x x x x @{prefix}2\n")
        taker.listen()
        exclusive_name.acquire(KIND, ring.id, target="map events").close()


def test_a_claim_that_would_exclude_nobody_is_an_error(
    ring: Map, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive_name, "CLAIMS", claims / "none" / "claims")
    with none_left(), pytest.raises(SyscallError, match=r"map events: .*\(socket: EMFILE"):
        exclusive_name.acquire(KIND, ring.id, target="map events")
