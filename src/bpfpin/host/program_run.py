"""Runs a program on test packets (BPF_PROG_TEST_RUN), from files, hex or a pcap."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bpfpin.errors import (
    InterfaceNotFoundError,
    NotSupportedError,
    ObjectNotFoundError,
    UsageError,
)
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.host.named import open_program, type_word
from bpfpin.objects.kernel.info import ProgramInfo
from bpfpin.objects.programs.program import Program, TestRun
from bpfpin.program_traits import RunInput, traits_of_program
from bpfpin.records import dataclass
from bpfpin.uapi import ProgramType

HEX: Final = "hex:"
REPEAT_MAX: Final = (1 << 31) - 1  # bpf_test_timer_continue() of net/bpf/test_run.c counts with int
_FILE_MAX: Final = 1 << 30
_ETHERNET: Final = 14
_LINK_ETHERNET: Final = 1  # LINKTYPE_ETHERNET of pcap
_SNAPLEN: Final = 262144  # the most bytes of a packet, as tcpdump writes it
# The first bytes of a pcap file with times in microseconds or nanoseconds, in either byte order.
_MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": "<",
    b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">",
    b"\xa1\xb2\x3c\x4d": ">",
}
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_XDP_MD: Final = struct.Struct("<IIIIII")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a program.

    Attributes:
        context: The context, as the type of program has it.
        device: The device by which XDP packets seem to come; empty for loopback.
        repeat: How often to run it for each packet.
        cpu: The CPU to run it on; None for any.
        is_live: XDP packets are really passed, sent and redirected.
        batch_size: How many live frames are handled at once; 0 for the kernel's default.
    """

    context: bytes = b""
    device: str = ""
    repeat: int = 1
    cpu: int | None = None
    is_live: bool = False
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of the run on one packet; *verdict* is the return value by name, or empty."""

    packet: bytes
    answer: TestRun
    verdict: str = ""

    @property
    def return_value(self) -> int:
        """The return value as a signed number, as C programs return it."""
        value = self.answer.return_value
        return value - (1 << 32) if value >> 31 else value


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """The program, and its results in the order of the packets."""

    info: ProgramInfo
    results: tuple[RunResult, ...]


def run_program(
    target: str, packets: Sequence[bytes], options: RunOptions, *, pin_root: Path
) -> ProgramRun:
    """Run the program that *target* names on each of the packets; none: once without one.

    Raises:
        UsageError: The packets or options do not fit the type of the program.
        NotSupportedError: Programs of this type cannot be run like this.
    """
    with open_program(target, pin_root) as program:
        info = program.info
        _check(info, packets, options)
        results = tuple(_results(program, info, packets or [b""], options))
    return ProgramRun(info, results)


def _results(
    program: Program, info: ProgramInfo, packets: Iterable[bytes], options: RunOptions
) -> Iterator[RunResult]:
    for packet in packets:
        context = options.context or _xdp_context(packet, options.device)
        try:
            answer = program.test_run(
                packet,
                repeat=options.repeat,
                context=context,
                cpu=options.cpu,
                live_frames=options.is_live,
                batch_size=options.batch_size,
            )
        except NotSupportedError as error:
            error.message = (
                f"program {info.id}: programs of type {type_word(info.type)} have no test run"
                f" ({error.command}: {error.strerror})"
            )
            raise
        result = RunResult(packet, answer)
        verdict = "" if options.is_live else verdict_name(info.type, result.return_value)
        yield RunResult(packet, answer, verdict)


def verdict_name(kind: int, value: int) -> str:
    """Return the name of a program's return value, "" if its type has no name for it."""
    return traits_of_program(kind).verdicts.get(value, "")


def _xdp_context(packet: bytes, device: str) -> bytes:
    """Return `struct xdp_md` for a packet that came by *device*; empty without a device."""
    if not device:
        return b""
    try:
        ifindex = socket.if_nametoindex(device)
    except OSError:
        raise InterfaceNotFoundError(f"there is no device {device!r}") from None
    # xdp_convert_md_to_buff() of net/bpf/test_run.c: `data_end` must be the length of the packet.
    return _XDP_MD.pack(0, len(packet), 0, ifindex, 0, 0)


def _check(info: ProgramInfo, packets: Sequence[bytes], options: RunOptions) -> None:
    kind = type_word(info.type)
    if (options.is_live or options.device) and info.type != ProgramType.XDP:
        what = "live frames are" if options.is_live else "a device is"
        raise UsageError(f"{what} for programs of type xdp; {info.name!r} is of type {kind}")
    if options.device and options.context:
        raise UsageError("a device and a context are given: the context holds the device")
    if options.batch_size and not options.is_live:
        raise UsageError("a batch size is for live frames alone", hint=Fix.of(Argument("live")))
    test_run = traits_of_program(info.type).test_run
    if test_run is RunInput.PACKET:
        if not packets:
            raise UsageError(
                f"programs of type {kind} need a packet",
                hint=Fix.of(
                    *(Argument("data", Placeholder("FILE")), ", "),
                    *(Argument("data", Placeholder("hex:BYTES")), " or "),
                    Argument("pcap", Placeholder("FILE")),
                ),
            )
        for number, packet in enumerate(packets, start=1):
            if len(packet) < _ETHERNET:
                raise UsageError(
                    f"packet {number} has {len(packet)} bytes; programs of type {kind} need at"
                    f" least {_ETHERNET}, an Ethernet header"
                )
    elif test_run is RunInput.CONTEXT:
        if packets:
            raise UsageError(f"programs of type {kind} take a context, no packet")
        if options.repeat != 1:
            raise UsageError(f"programs of type {kind} run once, not {options.repeat} times")


def read_input(word: str) -> bytes:
    """Return the bytes of `hex:0a00…`, or of the file *word*.

    Raises:
        UsageError: The digits are not hexadecimal, or the file cannot be read.
        ObjectNotFoundError: There is no such file.
    """
    if word.startswith(HEX):
        try:
            return bytes.fromhex(word.removeprefix(HEX))
        except ValueError:
            raise UsageError(f"{word!r}: no pairs of hexadecimal digits") from None
    try:
        with open(word, "rb") as file:  # noqa: PTH123 - no path: also /dev/stdin
            data = file.read(_FILE_MAX + 1)
    except FileNotFoundError:
        raise ObjectNotFoundError(f"{word}: there is no such file") from None
    except OSError as error:
        raise UsageError(f"{word}: {error.strerror}") from None
    if len(data) > _FILE_MAX:
        raise UsageError(f"{word}: more than {_FILE_MAX} bytes")
    return data


def read_pcap(path: str) -> tuple[list[bytes], int]:
    """Return the packets of a pcap file, and how many of them were cut when they were captured.

    Raises:
        UsageError: It is not a pcap file, is malformed, or its packets have no Ethernet header.
        ObjectNotFoundError: There is no such file.
    """
    data = read_input(path)
    if data[:4] == _PCAPNG:
        raise UsageError(
            f"{path}: a pcapng file, which is not read",
            hint=f"convert it: {shell_line('editcap -F pcap', path, f'{path}.pcap')}"
            " (apt install wireshark-common)",
        )
    order = _MAGICS.get(data[:4])
    if order is None or len(data) < 24:
        raise UsageError(f"{path}: no pcap file")
    (link_type,) = struct.unpack_from(f"{order}I", data, 20)
    # The upper bits describe the checksum of frames.
    if link_type & 0xFFFF != _LINK_ETHERNET:
        raise UsageError(
            f"{path}: its packets are of link type {link_type & 0xFFFF}, without an Ethernet header"
        )
    packets: list[bytes] = []
    cut, at = 0, 24
    while at < len(data):
        if at + 16 > len(data):
            raise UsageError(f"{path}: the header of packet {len(packets) + 1} is cut off")
        captured, original = struct.unpack_from(f"{order}II", data, at + 8)
        at += 16
        if at + captured > len(data):
            raise UsageError(f"{path}: packet {len(packets) + 1} is cut off")
        packets.append(data[at : at + captured])
        cut += captured < original
        at += captured
    return packets, cut


def write_output(path: str, packets: Sequence[bytes], *, is_pcap: bool) -> None:
    """Write bytes to a file, or packets as a pcap file; `UsageError` if that fails."""
    data = _pcap(packets) if is_pcap else b"".join(packets)
    try:
        with open(path, "wb") as file:  # noqa: PTH123 - no path: also /dev/stdout
            file.write(data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _pcap(packets: Iterable[bytes]) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAPLEN, _LINK_ETHERNET)
    records = (
        struct.pack("<IIII", 0, number, len(packet), len(packet)) + packet
        for number, packet in enumerate(packets)
    )
    return head + b"".join(records)
