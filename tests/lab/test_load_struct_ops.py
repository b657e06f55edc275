"""`load` of tables of functions that the kernel calls: a congestion control of TCP."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bpfpin.attach.struct_ops import attach_struct_ops
from bpfpin.errors import HookBusyError, UsageError
from bpfpin.loading.collection import load as load_object
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from support.crash import Fault, Injection, faulted, points
from support.here import Here
from support.kernel_needs import need_struct_ops_links
from support.objects import compiled
from support.trials import take_back
from support.wait import HANG_S, wait_until

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
NAME = "bpfpin_kept"
KILLS = 8


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `cc` in it."""
    need_struct_ops_links()
    return Here(bpffs, "cc")


def source(step: int = 1, *more: str) -> Path:
    return compiled("congestion", defines=(f"STEP={step}", *more))


def load(here: Here, path: Path, *words: object) -> dict[str, object]:
    document: dict[str, object] = here.ok("load", path, "--name", "cc", *words)
    return document


def connect() -> None:
    """Send over a new connection whose congestion control is the one of the set."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, NAME.encode())
        with (
            socket.create_connection(listener.getsockname(), timeout=HANG_S) as far,
            listener.accept()[0] as near,
        ):
            near.sendall(bytes(1 << 14))
            left = 1 << 14
            while left and (received := far.recv(left)):
                left -= len(received)


def asked(here: Here) -> int:
    with Map.from_pin(here.set / "asked") as counter:
        return int(counter[0])


def available() -> bool:
    return NAME in AVAILABLE.read_text().split()


def test_a_table_is_registered_replaced_shown_and_unloaded(here: Here) -> None:
    first = load(here, source())
    (shown,) = here.ok("status")["sets"]
    connect()
    before = asked(here)
    again = load(here, source(1_000_000))
    unchanged = load(here, source(1_000_000))
    links = [hook["link"] for hook in here.ok("status")["sets"][0]["hooks"]]
    connect()
    after = asked(here)
    graph = here.ok("graph")
    here.ok("unload", "cc")

    programs = {one["name"]: one for one in first["programs"]}  # type: ignore[attr-defined]
    assert programs.keys() == {"ssthresh", "cong_avoid", "undo_cwnd"}
    assert (programs["ssthresh"]["hook"], programs["ssthresh"]["target"]) == ("struct-ops", "kept")
    assert (shown["state"], shown["hooks"][0]["device"]) == ("ok", "table kept")
    assert (again["result"], unchanged["result"]) == ("reloaded", "unchanged")
    assert links == [shown["hooks"][0]["link"]]
    assert 0 < before < 1_000_000 <= after
    assert {"ssthresh", "cong_avoid"} <= {node["name"] for node in graph["nodes"]}
    wait_until(lambda: not available())
    assert not here.set.exists()


def test_a_table_heals_after_a_kill(here: Here, tmp_path: Path) -> None:
    load(here, source())
    tail = ["--name", "cc", "--pin-root", str(here.root)]
    moments = points(["load", str(source(2)), *tail], folder=tmp_path)
    hits = 0
    for point in moments[:: max(1, len(moments) // KILLS)]:
        ended = faulted(
            ["load", str(source(3)), *tail], Injection(point, Fault.KILL), folder=tmp_path
        )
        hits += ended.was_hit
        load(here, source(2))
        before = asked(here)
        connect()

        assert asked(here) > before
        assert asked(here) % 2 == before % 2, point
        assert here.ok("status")["sets"][0]["state"] == "ok"
    assert hits >= KILLS // 2


def test_a_table_that_the_kernel_does_not_take_in_its_place_leaves_the_old_one(here: Here) -> None:
    """TCP replaces a congestion control by one of the same name only."""
    load(here, source())
    result = here.run("load", source(2, 'NAME="bpfpin_other"'), "--name", "cc")
    (shown,) = here.ok("status")["sets"]

    assert result.exit_code != 0
    assert "BPF_LINK_UPDATE" in result.stderr
    assert shown["state"] == "ok"
    assert available()


def test_a_load_on_trial_goes_back_to_the_table_before(here: Here) -> None:
    load(here, source())
    load(here, source(1_000_000), "--confirm", "600")
    connect()
    during = asked(here)
    take_back(here.root)
    connect()

    assert during >= 1_000_000
    assert during < asked(here) < during + 1_000_000


def test_a_name_is_registered_once(here: Here) -> None:
    load(here, source())
    busy = here.refused(7, "load", source(2), "--name", "other")
    missing = here.refused(4, "load", source(2), "--name", "o", "--prog", "ssthresh:struct-ops=kep")
    planned = load(here, source(3), "--dry-run")

    assert "registered already" in busy.stderr
    assert "it has: kept" in missing.stderr
    assert planned["result"] == "planned"


def test_tables_from_python(here: Here) -> None:
    with load_object(read_object(source())) as loaded, load_object(read_object(source(2))) as other:
        with loaded.attach() as attached:
            ((link,),) = attached.values()
            assert isinstance(link, Link)
            with pytest.raises(HookBusyError, match="registered already"):
                attach_struct_ops(other.maps["kept"])
            link.update(other.maps["kept"], loaded.maps["kept"])

            assert (available(), link.program_id()) == (True, other.maps["kept"].id)
            assert attached.keys() == {"ssthresh"}
        with pytest.raises(UsageError, match="not a table of functions"):
            attach_struct_ops(loaded.maps["asked"])
    wait_until(lambda: not available())
    assert not here.set.exists()
