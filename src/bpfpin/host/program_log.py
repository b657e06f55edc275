"""The texts that programs write: bpf_printk's in the trace pipe of the host, and own streams.

The trace pipe and the streams give each text to one reader only.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bpfpin.errors import NotSupportedError, ObjectNotFoundError, PermissionDeniedError
from bpfpin.host.named import open_program
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import StreamId

TRACING: Final = Path("/sys/kernel/tracing")
_FILE_SYSTEMS: Final = Path("/proc/filesystems")
_READ_SIZE: Final = 65536
# A stream has no descriptor to wait for.
_POLL_S: Final = 0.2
# `  ping-812  [001] b.s21  4711.123456: bpf_trace_printk: text`; the option record-tgid adds the
# number in parentheses (Documentation/trace/ftrace.rst).
_TRACE_LINE: Final = re.compile(
    r"\s*(?P<task>.*)-(?P<pid>\d+)\s+(?:\(.{7}\)\s+)?\[(?P<cpu>\d+)\]\s+\S+\s+"
    r"(?P<time>\d+\.\d+): (?P<event>\w+): (?P<text>.*)"
)
_PRINTK: Final = "bpf_trace_printk"


@dataclass(frozen=True, slots=True)
class TraceText:
    """A line of the trace pipe: *time_s* is in seconds since boot, *task* ran the program."""

    task: str
    pid: int
    cpu: int
    time_s: float
    text: str


@dataclass(frozen=True, slots=True)
class StreamText:
    """A line of a stream of a program; *stream* is `stdout` or `stderr`."""

    program_id: int
    program: str
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class LostText:
    """A line of the trace pipe about events that were lost before they were read."""

    text: str


def trace_texts(*, is_following: bool) -> Iterator[TraceText | LostText]:
    """Yield the texts of bpf_printk() of all programs: those that are there, or without end.

    Other events that are enabled in the trace are taken from the pipe and left out.

    Raises:
        ObjectNotFoundError: No tracefs is mounted.
        NotSupportedError: The kernel has no tracefs.
        PermissionDeniedError: This user may not read the trace.
    """
    path = trace_pipe()
    try:
        pipe = Descriptor(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError as error:
        raise PermissionDeniedError(f"{path}: access denied", errno=error.errno or 0) from None
    rest = b""
    with pipe:
        while True:
            try:
                data = os.read(pipe.fileno(), _READ_SIZE)
            except BlockingIOError:
                data = b""
            if not data:
                if not is_following:
                    return
                select.select([pipe.fileno()], [], [])
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if (parsed := parse_trace_line(line.decode(errors="replace"))) is not None:
                    yield parsed


def trace_pipe() -> Path:
    """Return the path of the trace pipe of the host."""
    folders = [mount.mount_point for mount in fs.mounts() if mount.fs_type == "tracefs"]
    if folders:
        return Path(folders[0]) / "trace_pipe"
    if "tracefs" not in _FILE_SYSTEMS.read_text().split():
        raise NotSupportedError(
            "this kernel has no tracefs, where bpf_printk() writes", feature="tracefs"
        )
    raise ObjectNotFoundError(
        "no tracefs is mounted, where bpf_printk() writes",
        hint=f"mount -t tracefs tracefs {TRACING}",
    )


def parse_trace_line(line: str) -> TraceText | LostText | None:
    """Return a line of the trace pipe; None for other events than bpf_printk()."""
    match = _TRACE_LINE.fullmatch(line)
    if match is None:
        # `CPU:1 [LOST 20 EVENTS]`
        return LostText(line.strip()) if "LOST" in line else None
    if match["event"] != _PRINTK:
        return None
    return TraceText(
        match["task"].strip(),
        int(match["pid"]),
        int(match["cpu"]),
        float(match["time"]),
        match["text"],
    )


def stream_texts(
    targets: Sequence[str], *, pin_root: Path, is_following: bool
) -> Iterator[StreamText]:
    """Yield the lines that programs wrote to their streams: those that are there, or without end.

    Raises:
        NotSupportedError: The kernel has no streams.

    Kernel: BPF_PROG_STREAM_READ_BY_FD (Linux 6.17).
    """
    with ExitStack() as stack:
        streams = [
            _Stream(program, stream)
            for program in [
                stack.enter_context(open_program(target, pin_root)) for target in targets
            ]
            for stream in StreamId
        ]
        while True:
            is_idle = True
            for stream in streams:
                for text in stream.lines():
                    is_idle = False
                    yield text
            if is_idle and not is_following:
                break
            if is_idle:
                time.sleep(_POLL_S)
        for stream in streams:
            yield from stream.unfinished()


class _Stream:
    """A stream of a program, cut into lines."""

    def __init__(self, program: Program, stream: StreamId) -> None:
        self._fd, self._number = program.fd, stream
        self._id, self._program = program.id, program.name
        self._rest = b""

    def lines(self) -> Iterator[StreamText]:
        """Yield the lines that are there now."""
        data = bpf.prog_stream_read(
            self._fd, self._number, _READ_SIZE, target=f"program {self._program}"
        )
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield self._text(line)

    def unfinished(self) -> Iterator[StreamText]:
        """Yield the last line, if it has no end yet."""
        if self._rest:
            yield self._text(self._rest)

    def _text(self, line: bytes) -> StreamText:
        text = line.decode(errors="replace")
        return StreamText(self._id, self._program, self._number.name.lower(), text)
