"""Devices that refuse a program in native mode: the kernel's words, and what is done instead."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.devices import xdp_refusal
from bpfpin.attach.xdp import xdp_holder
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object
from bpfpin.spec import XdpMode
from bpfpin.syscall import netns
from bpfpin.uapi import XdpFlag
from support.here import Here, veth
from support.holders import running, their_program
from support.moments import interrupted
from support.objects import compiled_case

MTU = "Peer MTU is too large to set XDP"
QUEUES = "XDP expects number of rx queues not less than peer tx queues"
NO_NATIVE = "Underlying driver does not support XDP in native mode"


def ip(line: str) -> None:
    """Run the command ip with the words of *line*."""
    subprocess.run(["ip", *line.split()], check=True)


@pytest.fixture
def program() -> Path:
    """The program of the case, which takes frames in one buffer."""
    return compiled_case("pass", "clang")


@pytest.fixture
def frags() -> Path:
    """The same for frames in several buffers."""
    return compiled_case("pass_frags", "clang")


@pytest.fixture
def refusing(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[Here]:
    """A device that refuses a program in native mode, each for another reason."""
    if request.param == "lo":
        yield Here(bpffs, "lo")
        return
    with veth() as device:
        if request.param == "far MTU":
            ip(f"netns add {device}")
            ip(f"link set {device}-peer netns {device} mtu 9000")
        elif request.param == "MTU":
            ip(f"link set {device}-peer mtu 9000")
        else:
            ip(f"link del {device}")
            ip(
                f"link add {device} numrxqueues 1 numtxqueues 1"
                f" type veth peer name {device}-peer numrxqueues 4 numtxqueues 4"
            )
        yield Here(bpffs, device)
        if request.param == "far MTU":
            ip(f"netns del {device}")


REFUSING = pytest.mark.parametrize(
    ("refusing", "words"),
    [("MTU", MTU), ("far MTU", MTU), ("queues", QUEUES), ("lo", NO_NATIVE)],
    indirect=["refusing"],
)


@pytest.fixture
def big(bpffs: Path) -> Iterator[Here]:
    """A device whose peer sends large frames."""
    with veth() as device:
        ip(f"link set {device}-peer mtu 9000")
        yield Here(bpffs, device)


@REFUSING
def test_native_mode_is_refused_with_the_words_of_the_kernel(
    refusing: Here, program: Path, words: str
) -> None:
    refused = refusing.load_refused(8, program, "--mode", "native")
    foreseen = refusing.load_refused(8, program, "--mode", "native", "--dry-run")

    for result in (refused, foreseen):
        assert words in result.json["error"]["message"]
        assert "--mode generic" in result.json["error"]["hint"]
        assert "--take-over" not in result.stderr
        assert result.json["error"]["type"] == "NotSupportedError"


@REFUSING
def test_the_mode_is_generic_by_itself_and_a_note_says_why(
    refusing: Here, program: Path, words: str
) -> None:
    (foreseen,) = refusing.load(program, "--dry-run")["programs"]
    before = refusing.holder()
    (loaded,) = refusing.load(program)["programs"]
    holder = refusing.holder()
    refusing.ok("unload", refusing.device)

    assert before is None
    assert holder is not None
    assert (holder.mode, loaded["mode"], foreseen["mode"]) == (
        XdpMode.GENERIC,
        "generic",
        "generic",
    )
    assert words in loaded["note"]
    assert foreseen["note"] == loaded["note"]


def test_the_hint_of_a_large_mtu_is_a_program_for_several_buffers(
    big: Here, program: Path, frags: Path
) -> None:
    refused = big.load_refused(8, program, "--mode", "native")

    assert 'SEC("xdp.frags")' in refused.json["error"]["hint"]
    assert big.load(frags)["programs"][0]["mode"] == "native"


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--mode", "native")])
def test_a_reload_by_a_program_for_one_buffer_keeps_the_one_that_runs(
    big: Here, program: Path, frags: Path, words: tuple[str, ...]
) -> None:
    big.load(frags, "--mode", "native")
    refused = big.load_refused(8, program, *words)

    assert MTU in refused.json["error"]["message"]
    assert f"{big.typed} unload --keep-maps {big.device}" in refused.json["error"]["hint"]


def test_the_way_out_of_that_refusal_works_as_it_is_told(
    big: Here, program: Path, frags: Path
) -> None:
    big.load(frags, "--mode", "native")
    big.ok("unload", "--keep-maps", big.device)
    reloaded = big.load(program, "--mode", "generic")

    assert [one["decision"] for one in reloaded["maps"]] == ["kept"]


def test_a_device_that_refuses_the_switch_brings_the_other_back(
    big: Here, program: Path, frags: Path
) -> None:
    with veth() as device:
        other = Here(big.root, device)
        devices = ("--dev", other.device, "--dev", big.device)
        big.ok("load", frags, *devices, "--mode", "native")
        before = (other.everything(), big.everything())
        refused = big.run("load", program, *devices)
        after = (other.everything(), big.everything())

        assert (refused.exit_code, after) == (8, before)
        assert MTU in refused.stderr
        assert f"nothing was changed in {other.device}, {big.device}" in refused.stderr


def test_what_netlink_holds_is_refused_with_the_same_words(
    big: Here, program: Path, frags: Path
) -> None:
    ip(f"link set dev {big.device} xdpdrv obj {frags} sec xdp.frags")
    holder = big.holder()
    refused = big.load_refused(8, program, "--take-over")

    assert MTU in refused.stderr
    assert big.holder() == holder


ASK = """
import sys
from bpfpin.attach.devices import xdp_refusal
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import XdpFlag

with load(read_object(sys.argv[1])) as loaded:
    (program,) = loaded.programs.values()
    print(xdp_refusal(program.fd, int(sys.argv[2]), XdpFlag.DRV_MODE))
"""


def test_a_command_that_is_killed_while_it_asks_a_driver_leaves_no_program(
    bpffs: Path, program: Path
) -> None:
    """The driver accepts it, as if the reason of the refusal had just gone."""
    with veth() as device:
        command = [sys.executable, "-c", ASK, str(program), _ifindex(device)]
        endings: list[int] = []
        while 0 not in endings:
            call = f"sendto:{len(endings) + 1}"
            endings.append(interrupted(command, signal.SIGKILL, call).exit_code)

            assert Here(bpffs, device).holder() is None

    assert endings[:-1] == [-signal.SIGKILL] * (len(endings) - 1)
    assert len(endings) > 1


def test_asking_a_driver_changes_no_program_of_others(bpffs: Path, program: Path) -> None:
    with veth() as device, load(read_object(program)) as loaded:
        here, (ours,) = Here(bpffs, device), loaded.programs.values()
        with their_program(here, XdpMode.NATIVE):
            holder = here.holder()
            words = xdp_refusal(ours.fd, int(_ifindex(device)), XdpFlag.DRV_MODE)
            after = here.holder()

    assert words == "XDP program already attached"
    assert (after, holder is not None) == (holder, True)


@pytest.mark.parametrize(
    ("there", "asked"), [(XdpMode.GENERIC, "native"), (XdpMode.NATIVE, "generic")]
)
def test_the_line_that_frees_a_device_fits_the_mode_and_works(
    bpffs: Path, program: Path, there: XdpMode, asked: str
) -> None:
    with veth() as device:
        here = Here(bpffs, device)
        with their_program(here, there):
            refused = here.load_refused(7, program, "--take-over", "--mode", asked)
            told = refused.json["error"]["hint"].partition(",")[0]
            subprocess.run(shlex.split(told), check=True)
            left = running(here)
        mode = here.load(program, "--mode", asked)["programs"][0]["mode"]

    word = "xdpgeneric" if there is XdpMode.GENERIC else "xdpdrv"
    assert told == f"ip link set dev {device} {word} off"
    assert (left, mode) == (0, asked)


def test_the_line_for_a_device_of_another_namespace_works_from_here(
    bpffs: Path, program: Path
) -> None:
    with veth() as device:
        here = Here(bpffs, device)
        ip(f"netns add {device}")
        ip(f"link set {device} netns {device}")
        try:
            ip(f"-n {device} link set dev {device} xdpgeneric obj {program} sec xdp")
            words = ("--take-over", "--mode", "native", "-n", device)
            refused = here.run("load", program, "--dev", device, *words)
            told: str = refused.json["error"]["hint"].partition(",")[0]
            subprocess.run(shlex.split(told), check=True)
            with netns.enter(device):
                holder: Any = xdp_holder(int(_ifindex(device)))
        finally:
            ip(f"netns del {device}")

    assert refused.exit_code == 7
    assert "xdpgeneric off" in told
    assert holder is None


def _ifindex(device: str) -> str:
    words = ["ip", "-o", "link", "show", "dev", device]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split(":")[0]


def test_a_driver_without_offload_is_a_device_that_lacks_it(bpffs: Path, program: Path) -> None:
    with veth() as device:
        refused = Here(bpffs, device).load_refused(8, program, "--mode", "offload")

    assert f"{device} refuses program" in refused.stderr
    assert "in offload mode: " in refused.stderr
    assert "--mode native" in refused.json["error"]["hint"]
