"""`bpfpin prog run`: programs on packets from hex, files and pcaps, and what they give back."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.xdp import attach_xdp
from bpfpin.loading.collection import Loaded, load
from bpfpin.objfile.reader import read_object
from bpfpin.spec import XdpMode
from bpfpin.uapi import AttachType, ProgramType, XdpAction
from support.foreign_links import program as small_program
from support.here import run_here, veth
from support.objects import compiled
from support.wait import wait_until

PACKET = bytes.fromhex("ffffffffffff0200000000010800") + bytes(46)
HEX = f"hex:{PACKET.hex()}"


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """The programs of prog_run.bpf.c."""
    with load(read_object(compiled("prog_run", "clang"))) as loaded:
        yield loaded


def run(program: Any, *words: object) -> Any:
    """Run a program, which must succeed, and return the document."""
    result = run_here("prog", "run", f"id:{program.id}", *words, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return result.json


def refused(exit_code: int, program: Any, *words: object) -> Any:
    """Run a program, which must be refused with that exit code, and return the error."""
    result = run_here("prog", "run", f"id:{program.id}", *words, "-o", "json")
    assert result.exit_code == result.json["error"]["exit"] == exit_code, result.stderr
    return result.json["error"]


def pcap(*packets: bytes, order: str = "<", magic: int = 0xA1B2C3D4, link_type: int = 1) -> bytes:
    """Return a pcap file; each packet was one byte longer than what was captured of it."""
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    records = [
        struct.pack(f"{order}IIII", 1, 2, len(packet), len(packet) + 1) + packet
        for packet in packets
    ]
    return head + b"".join(records)


def test_the_verdict_has_its_name_and_the_packet_comes_back(loaded: Loaded, tmp_path: Path) -> None:
    stamp = loaded.programs["stamp"]
    (answer,) = run(stamp, "--data", HEX, "--repeat", 10)["runs"]

    changed = PACKET[:13] + b"\x42" + PACKET[14:]
    assert (answer["return_value"], answer["verdict"]) == (XdpAction.XDP_TX, "XDP_TX")
    assert answer["data"] == f"hex:{changed.hex()}"
    assert answer["duration_ns"] >= 0
    (tmp_path / "in").write_bytes(PACKET[:12] + bytes(48))
    words = ("--data", tmp_path / "in", "--data-out", tmp_path / "out")
    text = run_here("prog", "run", f"id:{stamp.id}", *words).stdout
    assert text.startswith("XDP_DROP (1), data changed, 60 bytes, ")
    assert (tmp_path / "out").read_bytes()[12:14] == b"\0\x42"


@pytest.mark.parametrize(("order", "magic"), [("<", 0xA1B2C3D4), (">", 0xA1B23C4D)])
def test_each_packet_of_a_pcap_is_a_run(
    order: str, magic: int, loaded: Loaded, tmp_path: Path
) -> None:
    other = PACKET[:12] + bytes(20)
    (tmp_path / "in.pcap").write_bytes(pcap(PACKET, other, order=order, magic=magic))
    words = ("--pcap", tmp_path / "in.pcap", "--data-out", tmp_path / "out.pcap")
    name = f"id:{loaded.programs['stamp'].id}"
    result = run_here("prog", "run", name, *words, "-o", "ndjson")

    assert [(row["packet"], row["verdict"]) for row in result.json_lines] == [
        (1, "XDP_TX"),
        (2, "XDP_DROP"),
    ]
    assert "2 of 2 packets were cut when captured" in result.stderr
    again = run_here("prog", "run", name, "--pcap", tmp_path / "out.pcap").stdout.splitlines()
    assert [line.rpartition(", ")[0] for line in again] == [
        "packet 1: XDP_TX (3)",  # the stamp is there already
        "packet 2: XDP_DROP (1)",
    ]


def test_a_context_goes_in_and_comes_back(loaded: Loaded, tmp_path: Path) -> None:
    # `mark` is the third member of struct __sk_buff, `cb` begins at its byte 48.
    context = bytearray(192)
    struct.pack_into("<I", context, 8, 41)
    out = tmp_path / "context"
    words = ("--data", HEX, "--context", f"hex:{context.hex()}", "--context-out", out)
    (answer,) = run(loaded.programs["mark"], *words)["runs"]

    after = out.read_bytes()
    assert answer["context"] == f"hex:{after.hex()}"
    assert struct.unpack_from("<I", after, 8) == (42,)
    assert struct.unpack_from("<I", after, 48) == (len(PACKET),)
    assert (answer["return_value"], answer["verdict"]) == (-1, "TC_ACT_UNSPEC")


def test_a_syscall_program_has_a_context_alone(loaded: Loaded) -> None:
    add = loaded.programs["add"]
    (answer,) = run(add, "--context", "hex:0500000000000000")["runs"]

    assert answer["return_value"] == 7
    assert answer["context"] == "hex:0500000006000000"
    assert "take a context, no packet" in refused(2, add, "--data", HEX)["message"]
    assert "run once, not 2 times" in refused(2, add, "--repeat", 2)["message"]


def test_the_cpu_and_the_device_are_those_asked_for(loaded: Loaded) -> None:
    stamp, cpus = loaded.programs["stamp"], os.sched_getaffinity(0)
    with veth() as device, attach_xdp(stamp, device, mode=XdpMode.NATIVE):
        for cpu in cpus:
            run(stamp, "--data", HEX, "--cpu", cpu, "--dev", device)
            place = loaded.maps["places"][0]
            assert (place >> 32, place & 0xFFFFFFFF) == (
                cpu,
                socket.if_nametoindex(device),
            )
    assert os.sched_getaffinity(0) == cpus
    assert "no run on CPU 4000" in refused(2, stamp, "--data", HEX, "--cpu", 4000)["message"]


def received_by(device: str) -> int:
    """Return how many packets a device has received."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.split()[0] == f"{device}:")


def test_live_frames_are_sent_for_real(loaded: Loaded) -> None:
    with (
        veth() as device,
        small_program(ProgramType.XDP, "take", AttachType.XDP, answer=2) as take,
        small_program(ProgramType.XDP, "send", AttachType.XDP, answer=3) as send,
    ):
        peer = f"{device}-peer"
        for end in (device, peer):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        with (
            attach_xdp(take, device, mode=XdpMode.NATIVE),
            attach_xdp(take, peer, mode=XdpMode.NATIVE),
        ):
            before = received_by(device)
            words = ("--data", HEX, "--dev", peer, "--repeat", 100, "--batch", 10)
            (answer,) = run(send, *words, "--live")["runs"]
            wait_until(lambda: received_by(device) >= before + 100)
        assert set(answer) == {"packet", "duration_ns"}
        assert "for live frames alone" in refused(2, send, "--data", HEX, "--batch", 3)["message"]
    mark = loaded.programs["mark"]
    assert (
        "live frames are for programs of type xdp"
        in (refused(2, mark, "--data", HEX, "--live")["message"])
    )


def test_what_cannot_be_run_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    stamp, file = loaded.programs["stamp"], tmp_path / "file"
    with small_program(ProgramType.TRACEPOINT, "traced") as traced:
        assert "type tracepoint have no test run" in refused(8, traced)["message"]
    assert "need a packet" in refused(2, stamp)["message"]
    assert "packet 1 has 4 bytes" in refused(2, stamp, "--data", "hex:00112233")["message"]
    assert "hexadecimal" in refused(2, stamp, "--data", "hex:0g")["message"]
    assert "no such file" in refused(4, stamp, "--data", file)["message"]
    assert "give one of them" in refused(2, stamp, "--data", HEX, "--pcap", file)["message"]
    for data, message in (
        (b"", "no pcap file"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "a pcapng file"),
        (pcap(), "it has no packets"),
        (pcap(PACKET, link_type=113), "link type 113"),
        (pcap(PACKET)[:-1], "packet 1 is cut off"),
        (pcap(PACKET) + b"\0", "the header of packet 2 is cut off"),
    ):
        file.write_bytes(data)
        assert message in refused(2, stamp, "--pcap", file)["message"]
    words = ("--data", HEX, "--data-out", tmp_path)
    assert "Is a directory" in refused(2, stamp, *words)["message"]
