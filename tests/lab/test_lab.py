"""The throw-away environment: made, silent, listed, entered, taken down."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from bpfpin.apps.lab import lab_down, lab_exec, lab_up, labs
from bpfpin.attach.netlink import Netlink, create_namespace, remove_namespace
from bpfpin.errors import BusyError, InterfaceNotFoundError, UsageError
from bpfpin.syscall import netns
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab
from support.tools import need
from support.wait import wait_until


def received(device: str) -> int:
    """Return how many packets a device of this namespace has received in its life."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith(f"{device}:")]
    return int(line.split(":")[1].split()[1])


def test_both_ends_answer_on_both_addresses(lab: TestLab) -> None:
    need("ping")
    host, peer = lab.lab.addresses.host, lab.lab.addresses.peer
    ping = ["ping", "-q", "-c", "1", "-W", "1"]

    assert [lab_exec(lab.lab.name, [*ping, address]) for address in host] == [0, 0]
    assert [subprocess.run([*ping, address], check=False).returncode for address in peer] == [0, 0]


def test_nothing_arrives_but_what_is_sent(lab: TestLab) -> None:
    everything = socket.ntohs(0x0003)  # ETH_P_ALL
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, everything) as listener:
        listener.bind((lab.device, 0))
        listener.settimeout(1.2)  # the kernel's own packets would come within a second
        with pytest.raises(TimeoutError):
            listener.recv(2048)
    lab.flood(100)

    assert received(lab.device) == 100


def test_labs_have_addresses_of_their_own(lab: TestLab) -> None:
    second = lab_up("second")
    lab_down("second")

    assert set(second.addresses.host).isdisjoint(lab.lab.addresses.host)


def test_labs_are_listed_as_they_are(lab: TestLab) -> None:
    assert labs() == [lab.lab]


def test_a_lab_that_is_down_leaves_nothing() -> None:
    lab_up("short")
    lab_down("short")

    assert labs() == []
    assert netns.names() == []
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def test_a_lab_can_be_made_again_at_once() -> None:
    for _ in range(3):
        lab_up("again")
        lab_down("again")

    assert labs() == []


def test_a_lab_that_is_up_is_not_made_twice(lab: TestLab) -> None:
    with pytest.raises(BusyError, match="there is a lab") as caught:
        lab_up(lab.device)

    assert f"bpfpin lab down {lab.device}" in caught.value.hint
    assert labs() == [lab.lab]


def test_a_namespace_of_somebody_else_is_left_alone() -> None:
    create_namespace("theirs")
    with pytest.raises(BusyError, match="there is a network namespace 'theirs'"):
        lab_up("theirs")
    with pytest.raises(InterfaceNotFoundError, match="no lab 'theirs'"):
        lab_down("theirs")

    assert netns.names() == ["theirs"]
    remove_namespace("theirs")


def test_a_device_of_somebody_else_is_left_alone() -> None:
    with Netlink() as netlink:
        device = netlink.create_veth("theirs")
        with pytest.raises(BusyError, match="there is a device"):
            lab_up("theirs")
        with pytest.raises(InterfaceNotFoundError):
            lab_down("theirs")

        assert netlink.device(device.ifindex) == device
        netlink.delete_device(device.ifindex)


def leave_a_namespace() -> None:
    """As a process leaves it that is killed before it creates the device."""
    create_namespace("half", alias="bpfpin lab")


def leave_an_unmarked_device() -> None:
    """As a process leaves it that is killed before it marks the device."""
    leave_a_namespace()
    with Netlink() as netlink:
        netlink.create_veth_into("half", "half", "veth0")


def leave_a_marked_device() -> None:
    """As a process leaves it that is killed between removing the namespace and the device."""
    with Netlink() as netlink:
        netlink.set_alias(netlink.create_veth("half").ifindex, "bpfpin lab")


@pytest.mark.parametrize(
    "leave", [leave_a_namespace, leave_an_unmarked_device, leave_a_marked_device]
)
def test_a_half_made_lab_is_taken_down(leave: Callable[[], None]) -> None:
    leave()
    with pytest.raises(BusyError, match="a lab 'half'") as caught:
        lab_up("half")
    lab_down("half")

    assert "bpfpin lab down half" in caught.value.hint
    assert labs() == []
    assert netns.names() == []
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def test_a_device_beside_the_namespace_of_a_half_made_lab_is_left_alone() -> None:
    leave_a_namespace()
    with Netlink() as netlink:
        device = netlink.create_veth("half")
        with pytest.raises(BusyError, match="there is a device"):
            lab_up("half")
        lab_down("half")

        assert netlink.device(device.ifindex) == device
        netlink.delete_device(device.ifindex)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def delete_device(name: str) -> None:
    ip("link", "delete", name)


def remove_namespace_by_hand(name: str) -> None:
    ip("netns", "delete", name)


def leave_a_plain_file(name: str) -> None:
    """As a process leaves it that is killed between unmounting the namespace and its file."""
    remove_namespace_by_hand(name)
    Path("/run/netns", name).touch()


def leave_only_a_plain_file(name: str) -> None:
    leave_a_plain_file(name)
    with suppress(subprocess.CalledProcessError):  # it went with its namespace
        delete_device(name)


@pytest.mark.parametrize(
    "damage",
    [delete_device, remove_namespace_by_hand, leave_a_plain_file, leave_only_a_plain_file],
)
def test_what_is_left_of_a_lab_is_taken_down(damage: Callable[[str], None]) -> None:
    lab_up("hurt")
    damage("hurt")
    with suppress(InterfaceNotFoundError):  # nothing at all may be left
        lab_down("hurt")
    lab_up("hurt")
    lab_down("hurt")

    assert "hurt" not in [*netns.names(), *dict(socket.if_nameindex()).values()]


def test_a_leftover_says_how_to_get_rid_of_it() -> None:
    lab_up("left")
    delete_device("left")
    with pytest.raises(BusyError, match="what is left of a lab 'left'") as refused:
        lab_up("left")
    result = run_cli(*refused.value.hint.split()[1:])

    assert (result.exit_code, "left" in netns.names()) == (0, False)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_in_a_lab_ends_with_the_one_that_started_it(
    lab: TestLab, ending: signal.Signals
) -> None:
    words = ["lab", "exec", lab.lab.name, "--", "sh", "-c", "echo $$; exec sleep 1000"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bpfpin", *words], stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        child = int(started.stdout.readline())
        started.send_signal(ending)
        started.wait()

    wait_until(lambda: not Path(f"/proc/{child}").exists())
    assert started.returncode == 128 + ending


@pytest.mark.parametrize(
    "name", ["", "lo", "..", "a/b", "a b", "x" * 16, "a\x1b", "a~b", "a\udcff"]
)
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a lab"):
        lab_up(name)


def test_a_command_runs_inside_and_its_status_comes_back(lab: TestLab) -> None:
    name = lab.lab.name

    assert lab_exec(name, ["sh", "-c", "exit 7"]) == 7
    assert lab_exec(name, ["sh", "-c", "kill -TERM $$"]) == 128 + 15
    assert lab_exec(name, ["test", "-d", "/sys/fs/bpf"]) == 0
    with pytest.raises(UsageError, match="no command 'nosuch'"):
        lab_exec(name, ["nosuch"])
    with pytest.raises(InterfaceNotFoundError, match="no lab 'nolab'; labs that are up: "):
        lab_exec("nolab", ["true"])


def test_the_command_tells_a_story() -> None:
    up = run_cli_ok("lab", "up", "story", "-o", "json").json
    listed = run_cli_ok("lab", "list", "-o", "json").json
    inside = run_cli("lab", "exec", "story", "--", "sh", "-c", "ip -o link show veth0; exit 3")
    down = run_cli_ok("lab", "down", "story", "-o", "json").json
    gone = run_cli("lab", "down", "story")

    assert up == {
        "schema": 1,
        "lab": "story",
        "device": "story",
        "netns": "story",
        "peer": "veth0",
        "addresses": {
            "host": ["10.11.1.1", "fc00:dead:cafe:1::1"],
            "peer": ["10.11.1.2", "fc00:dead:cafe:1::2"],
        },
    }
    assert listed == {"schema": 1, "labs": [{k: v for k, v in up.items() if k != "schema"}]}
    assert (inside.exit_code, "veth0" in inside.stdout) == (3, True)
    assert down == {"schema": 1, "result": "deleted", "lab": "story"}
    assert gone.exit_code == 4
    assert "bpfpin lab up story" in gone.stderr


def test_what_the_command_says_to_people_has_the_next_step() -> None:
    up = run_cli_ok("lab", "up", "people")
    again = run_cli("lab", "up", "people")
    run_cli_ok("lab", "down", "people")
    none = run_cli_ok("lab", "list")

    assert "10.11.1.1" in up.stdout
    assert "next: bpfpin load --dev people" in up.stderr
    assert again.exit_code == 7
    assert "no lab is up" in none.stderr
