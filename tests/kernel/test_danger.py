"""Which device carries the default route, and which one's own ssh session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bpfpin.apps.danger import danger_of, require_way_back
from bpfpin.errors import InterfaceNotFoundError, UsageError
from support.here import veth


def ip(*words: object) -> None:
    """Change the network by the command of that name."""
    subprocess.run(["ip", *map(str, words)], check=True)


@pytest.fixture
def device() -> Iterator[str]:
    """A device with addresses, whose routes end with it."""
    with veth() as name:
        for end in (name, f"{name}-peer"):
            ip("link", "set", end, "up")
        ip("addr", "add", "192.0.2.1/24", "dev", name)
        ip("addr", "add", "2001:db8::1/64", "dev", name, "nodad")
        yield name


def test_a_device_that_carries_nothing_special_is_in_no_danger(device: str) -> None:
    assert danger_of(device) == ""


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_device_of_a_default_route_is_told(device: str, family: str) -> None:
    ip(family, "route", "add", "default", "dev", device)

    assert danger_of(device) == "the default route"
    assert danger_of("lo") == ""


def test_a_default_route_of_another_table_counts_too(device: str) -> None:
    ip("route", "add", "default", "dev", device, "table", 100)

    assert danger_of(device) == "the default route"


def test_both_devices_of_a_default_route_with_two_ways_are_told(device: str) -> None:
    with veth() as second:
        ip("link", "set", second, "up")
        ways = [word for name in (device, second) for word in ("nexthop", "dev", name)]
        ip("route", "add", "default", *ways)

        assert (danger_of(device), danger_of(second)) == ("the default route",) * 2


def test_a_route_that_refuses_packets_is_no_way_out(device: str) -> None:
    ip("-6", "route", "add", "unreachable", "default", "metric", 4000)
    try:
        assert danger_of(device) == danger_of("lo") == ""
    finally:
        ip("-6", "route", "del", "unreachable", "default", "metric", 4000)


def test_the_device_below_another_below_a_bridge_carries_what_that_does(device: str) -> None:
    ip("link", "add", "danger-br", "type", "bridge")
    try:
        ip("link", "set", device, "master", "danger-br")
        ip("link", "add", "link", "danger-br", "name", "danger-mac", "type", "macvlan")
        for name in ("danger-br", "danger-mac"):
            ip("link", "set", name, "up")
        ip("route", "add", "default", "dev", "danger-mac")

        assert danger_of(device) == danger_of("danger-br") == "the default route"
        assert danger_of(f"{device}-peer") == ""
    finally:
        ip("link", "del", "danger-br")


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
def test_the_device_of_ones_own_ssh_session_is_told(
    device: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", f"198.51.100.9 50000 {address} 22")

    assert danger_of(device) == "your ssh session from 198.51.100.9"
    assert danger_of("lo") == ""


def test_an_ssh_session_is_found_where_sudo_took_the_variable_away(device: str) -> None:
    show = f"from bpfpin.apps.danger import danger_of; print(danger_of({device!r}))"
    stripped = ["env", "-u", "SSH_CONNECTION", sys.executable, "-c", show]
    # A shell between, as sudo is: it has the variable, and what it starts has not.
    line = '"$@"; exit $?'
    session = {**os.environ, "SSH_CONNECTION": "198.51.100.9 50000 192.0.2.1 22"}
    told = subprocess.run(
        ["sh", "-c", line, "sh", *stripped], env=session, check=True, capture_output=True, text=True
    )

    assert told.stdout.strip() == "your ssh session from 198.51.100.9"


def test_a_device_that_is_not_there_is_said_so() -> None:
    with pytest.raises(InterfaceNotFoundError):
        danger_of("nowhere")


def test_a_cut_is_refused_without_a_way_back_and_told_what_it_would_cut(device: str) -> None:
    ip("route", "add", "default", "dev", device)
    with pytest.raises(UsageError, match="would cut") as refused:
        require_way_back("XDP_DROP", ["lo", device], confirm_s=None)

    assert f"{device}, which carries the default route" in str(refused.value)
    assert "--confirm" in refused.value.hint


def test_a_cut_with_a_way_back_or_on_purpose_is_let(device: str) -> None:
    ip("route", "add", "default", "dev", device)
    require_way_back("XDP_DROP", [device], confirm_s=30)
    require_way_back("XDP_DROP", [device], confirm_s=None, is_forced=True)
    require_way_back("XDP_DROP", [f"{device}-peer"], confirm_s=None)
