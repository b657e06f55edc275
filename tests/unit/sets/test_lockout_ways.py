"""The ssh sessions that a process and its ancestors say they are in."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from bpfpin.attach.routes import NetDevice, Underlay
from bpfpin.sets.lockout.ways import SshSession, _Carried, _View, ssh_sessions


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be in one."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


def process(proc: Path, pid: int, parent: int, *environment: str) -> None:
    """Make the files of a process; its name is a nasty one."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} (a) b (c) S {parent} 1 1 0\n")
    (folder / "environ").write_bytes(b"".join(os.fsencode(one) + b"\0" for one in environment))


def test_the_session_of_an_ancestor_is_found(tmp_path: Path) -> None:
    process(tmp_path, os.getpid(), 20, "HOME=/root")
    process(tmp_path, 20, 10, "SUDO_UID=1000")
    process(tmp_path, 10, 1, "SSH_CONNECTION=198.51.100.9 50000 192.0.2.1 22", "HOME=/home/me")

    assert ssh_sessions(tmp_path) == [SshSession("198.51.100.9", ip_address("192.0.2.1"))]


@pytest.mark.parametrize(
    ("address", "protocols"), [("192.0.2.1", (4,)), ("2001:db8::1", (41,)), (None, (41, 4))]
)
def test_a_session_in_a_tunnel_of_all_protocols_takes_one(
    address: str | None, protocols: tuple[int, ...]
) -> None:
    ends = ip_address("2001:db8:1::1"), ip_address("2001:db8:1::2")
    lower, upper = NetDevice(1, "eth0", 1, 0), NetDevice(2, "tunnel", 769, 0, kind="ip6tnl")
    carried = _Carried(upper, lower, underlay=Underlay(1, *ends, (41, 4)))
    session = SshSession("client", ip_address(address)) if address else None
    way = _View({1: lower, 2: upper}, (), ()).way(carried, session)

    assert way.tunnel is not None
    assert way.tunnel.protocols == protocols


def test_a_session_told_by_several_is_one(tmp_path: Path) -> None:
    told = "SSH_CONNECTION=fe80::9%eth0 50000 fe80::1%eth0 22"
    process(tmp_path, os.getpid(), 20, told)
    process(tmp_path, 20, 1, told)

    assert ssh_sessions(tmp_path) == [SshSession("fe80::9%eth0", ip_address("fe80::1"))]


@pytest.mark.parametrize(
    "told", ["", "UNKNOWN 65535 UNKNOWN 65535", "192.0.2.1", "a b c d", "1.2.3.4 1 999.1.1.1 22"]
)
def test_what_is_no_session_counts_for_nothing(tmp_path: Path, told: str) -> None:
    process(tmp_path, os.getpid(), 1, f"SSH_CONNECTION={told}")

    assert ssh_sessions(tmp_path) == []


def test_ancestors_in_a_circle_are_walked_once_and_no_more(tmp_path: Path) -> None:
    process(tmp_path, os.getpid(), os.getpid(), "HOME=/root")

    assert ssh_sessions(tmp_path) == []
