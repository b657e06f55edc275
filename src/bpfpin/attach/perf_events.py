"""Perf events that run programs: counters of the CPU and of the kernel, by frequency or period.

An event counts on one CPU, or in one process on all CPUs. So a target without either is a link for
each CPU that is online.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.choices import similar
from bpfpin.errors import NotSupportedError, TargetNotFoundError, UsageError
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall import perf
from bpfpin.syscall.attr import LinkDetails, PerfEventLink
from bpfpin.syscall.cpu import ONLINE, cpu_index, list_cpus
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType

_RATE_MAX: Final = Path("/proc/sys/kernel/perf_event_max_sample_rate")
# enum perf_type_id of linux/perf_event.h.
_TYPES: Final = {"hardware": 0, "software": 1, "hw-cache": 3, "raw": 4}
_HARDWARE, _SOFTWARE, _CACHE = 0, 1, 3
# perf_event_init() of kernel/events/core.c registers the two clocks first, as PMUs without a name.
# Since Linux 6.5 their events report these types instead of `software`.
_CLOCKS: Final = {6: "cpu-clock", 7: "task-clock"}
# enum perf_hw_id and enum perf_sw_ids, by perf's words and their short forms.
_EVENTS: Final = {
    "cpu-cycles": (_HARDWARE, 0),
    "cycles": (_HARDWARE, 0),
    "instructions": (_HARDWARE, 1),
    "cache-references": (_HARDWARE, 2),
    "cache-misses": (_HARDWARE, 3),
    "branch-instructions": (_HARDWARE, 4),
    "branches": (_HARDWARE, 4),
    "branch-misses": (_HARDWARE, 5),
    "bus-cycles": (_HARDWARE, 6),
    "stalled-cycles-frontend": (_HARDWARE, 7),
    "stalled-cycles-backend": (_HARDWARE, 8),
    "ref-cycles": (_HARDWARE, 9),
    "cpu-clock": (_SOFTWARE, 0),
    "task-clock": (_SOFTWARE, 1),
    "page-faults": (_SOFTWARE, 2),
    "faults": (_SOFTWARE, 2),
    "context-switches": (_SOFTWARE, 3),
    "cs": (_SOFTWARE, 3),
    "cpu-migrations": (_SOFTWARE, 4),
    "migrations": (_SOFTWARE, 4),
    "minor-faults": (_SOFTWARE, 5),
    "major-faults": (_SOFTWARE, 6),
    "alignment-faults": (_SOFTWARE, 7),
    "emulation-faults": (_SOFTWARE, 8),
    "dummy": (_SOFTWARE, 9),
    "cgroup-switches": (_SOFTWARE, 11),
}
# enum perf_hw_cache_id; enum perf_hw_cache_op_id with enum perf_hw_cache_op_result_id.
_CACHES: Final = ("L1-dcache", "L1-icache", "LLC", "dTLB", "iTLB", "branch", "node")
_CACHE_OPERATIONS: Final = {
    "loads": 0,
    "load-misses": 1 << 16,
    "stores": 1 << 8,
    "store-misses": 1 << 8 | 1 << 16,
    "prefetches": 2 << 8,
    "prefetch-misses": 2 << 8 | 1 << 16,
}
_OPTIONS: Final = ("freq", "period", "pid", "cpu")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")


@dataclass(frozen=True, slots=True)
class PerfEventTarget:
    """An event as it is typed: `EVENT[,freq=N|period=N][,pid=N][,cpu=N]`."""

    event: str
    freq: int = 0
    period: int = 0
    pid: int = 0
    cpu: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a target as the user types it; `UsageError` if it has another form."""
        event, *words = text.split(",")
        options: dict[str, int] = {}
        for word in words:
            name, _, number = word.partition("=")
            if name not in _OPTIONS or not number.isdecimal() or name in options:
                raise UsageError(
                    f"{word!r} in {text!r} is not an option of a perf event, which has once each:"
                    f" {', '.join(f'{option}=N' for option in _OPTIONS)}"
                )
            options[name] = int(number)
        return cls(event, **options)._checked()

    def _checked(self) -> Self:
        if bool(self.freq) == bool(self.period):
            raise UsageError(
                f"{self}: an event runs its program so many times a second (freq=N), or once for"
                " so many events (period=N)",
                hint=f"for example: {self.event or 'cpu-clock'},freq=99",
            )
        return self

    def __str__(self) -> str:
        numbers = [f"{name}={number}" for name in _OPTIONS if (number := getattr(self, name))]
        # CPU 0 is a CPU, and process 0 none.
        numbers += ["cpu=0"] if self.cpu == 0 else []
        return ",".join([self.event, *numbers])

    def on_each_cpu(self) -> list[Self]:
        """Return the event on each CPU that is online; itself if a CPU or process is named."""
        if self.pid or self.cpu is not None:
            return [self]
        kind = type(self)
        return [
            kind(self.event, self.freq, self.period, self.pid, cpu)
            for cpu in list_cpus(ONLINE.read_text())
        ]


def attach_perf_event(
    program: Program,
    event: str,
    *,
    freq: int | None = None,
    period: int | None = None,
    pid: int | None = None,
    cpu: int | None = None,
    cookie: int = 0,
) -> list[Link]:
    """Attach *program* to a perf event; closing a link detaches it there, unless it is pinned.

    Args:
        program: A program of type PERF_EVENT.
        event: One of perf's words, such as `cpu-clock`, `page-faults`, `cycles`, `LLC-load-misses`;
            or `TYPE:CONFIG`, where TYPE is `hardware`, `software`, `hw-cache`, `raw` or a PMU of
            /sys/bus/event_source/devices and CONFIG a number.
        freq: How often a second it runs, about.
        period: Run it once for so many events. Either *freq* or *period* is needed.
        pid: Count in this thread alone; the number of a process is that of its first thread.
        cpu: Count on this CPU alone. Default: all that are online.
        cookie: The number that bpf_get_attach_cookie() returns in the program.

    Returns:
        The links: one for each CPU, or one in all with *pid* or *cpu*.

    Raises:
        TargetNotFoundError: There is no such event, process or CPU.
        UsageError: Neither *freq* nor *period* is given, or both are.
        NotSupportedError: This CPU (a virtual one, perhaps) does not count such events, the kernel
            has no such links, or the CPU is offline.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: perf_event_open(2), BPF_LINK_CREATE with BPF_PERF_EVENT (Linux 5.15).
    """
    require_type(program, Hook.PERF_EVENT)
    numbers = {"freq": freq, "period": period, "pid": pid, "cpu": cpu}
    given = [f"{name}={number}" for name, number in numbers.items() if number is not None]
    target = PerfEventTarget.parse(",".join([event, *given]))
    with ExitStack() as undo:
        links = []
        for each in target.on_each_cpu():
            links.append(_attach(program, each, cookie))
            undo.callback(links[-1].close)
        undo.pop_all()
        return links


def _attach(program: Program, target: PerfEventTarget, cookie: int = 0) -> Link:
    place = f"perf event {target}"
    with _open(target, place) as event:
        details = LinkDetails(perf_event=PerfEventLink(cookie))
        return Link(
            create_link(program, event.fileno(), AttachType.PERF_EVENT, details, place=place)
        )


def _open(target: PerfEventTarget, place: str) -> Descriptor:
    kind, config = _event(target.event)
    if target.cpu is not None:
        try:
            cpu_index(target.cpu)
        except ValueError as error:
            raise TargetNotFoundError(f"{place}: {error}") from None
    try:
        return perf.open_event(
            kind,
            config,
            freq=target.freq,
            period=target.period,
            pid=target.pid,
            cpu=target.cpu,
            target=place,
        )
    except InvalidArgumentError as error:
        rate_max = int(_RATE_MAX.read_text())
        if target.freq > rate_max:
            error.hint = f"the most is freq={rate_max} (kernel.perf_event_max_sample_rate)"
        raise


def event_word(kind: int, config: int) -> str:
    """Return the event with the kernel's numbers as it is typed; a number where it has no word."""
    for word, event in _EVENTS.items():
        if event == (kind, config):
            return word
    types = {number: word for word, number in _TYPES.items()}
    type_word = types.get(kind) or perf.pmu_name(kind)
    if not type_word and kind in _CLOCKS:
        return _CLOCKS[kind]
    return f"{type_word or f'type {kind}'}:{config:#x}"


def _event(text: str) -> tuple[int, int]:
    """Return type and config of an event, as it is typed."""
    if text in _EVENTS:
        return _EVENTS[text]
    kind, colon, config = text.partition(":")
    if colon:
        if not _NUMBER.fullmatch(config):
            return _named_config(kind, config, text)
        return _type(kind), int(config, 0)
    cache, _, operation = _cache_parts(text)
    if operation:
        return _CACHE, _CACHES.index(cache) | _CACHE_OPERATIONS[operation]
    near = similar(text, [*_EVENTS, *_cache_words()])
    raise TargetNotFoundError(
        f"there is no perf event {text!r}",
        hint=f"near it: {', '.join(near)}" if near else "see: perf list; or give TYPE:CONFIG",
    )


def _named_config(kind: str, config: str, text: str) -> tuple[int, int]:
    """Return type and config of `software:cpu-clock`."""
    if config in _EVENTS and _TYPES.get(kind) == _EVENTS[config][0]:
        return _EVENTS[config]
    raise UsageError(
        f"{text!r} is not a perf event: behind the colon is a number, such as raw:0x1c2, or an"
        " event of that type"
    )


def _type(word: str) -> int:
    if word in _TYPES:
        return _TYPES[word]
    try:
        return perf.pmu_type(word, feature=word)
    except NotSupportedError:
        there = [*_TYPES, *(path.name for path in perf.PMUS.iterdir())]
        raise TargetNotFoundError(
            f"there is no type {word!r} of perf events",
            hint=f"there are: {', '.join(dict.fromkeys(there))}",
        ) from None


def _cache_parts(text: str) -> tuple[str, str, str]:
    for cache in _CACHES:
        operation = text.removeprefix(f"{cache}-")
        if operation in _CACHE_OPERATIONS and operation != text:
            return cache, "-", operation
    return "", "", ""


def _cache_words() -> list[str]:
    return [f"{cache}-{operation}" for cache in _CACHES for operation in _CACHE_OPERATIONS]


class PerfEventCode(HookCode):
    """The code of perf events."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link; *target* names a CPU or a process."""
        require_type(program, hook)
        return NewAttachment(hook, _attach(program, PerfEventTarget.parse(target.name)))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Look whether there is such an event."""
        # Opened and closed again: only the kernel knows what this CPU counts.
        event = PerfEventTarget.parse(target.name)
        _open(event, f"perf event {event}").close()
        return ""

    def targets(self, hook: Hook, name: str) -> list[str]:
        """Return the event on each CPU, unless a CPU or a process is named."""
        return [str(event) for event in PerfEventTarget.parse(name).on_each_cpu()]


CODE = PerfEventCode()
