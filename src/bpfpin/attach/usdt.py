"""Probes in user programs (USDT), with the arguments that the program reads by bpf_usdt_arg().

The program finds the places of its arguments in the map __bpf_usdt_specs of <bpf/usdt.bpf.h>, by
the number that its attachment has as a cookie. One probe may have several places in the code, each
with arguments of its own. They are probed by one link; before Linux 6.6 by a link each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bpfpin.attach import uprobe_multi, uprobes
from bpfpin.attach.order import require_type
from bpfpin.attach.registry import AttachOptions, HookCode, HookTarget, NewAttachment
from bpfpin.attach.uprobe_multi import UprobePlaces, kernel_has_links
from bpfpin.attach.uprobes import UprobePlace, require_pid
from bpfpin.attach.user_files import UserTarget, find_file, require_code
from bpfpin.choices import similar
from bpfpin.errors import MapFullError, NotSupportedError, TargetNotFoundError, UsageError
from bpfpin.hints import Argument, Fix
from bpfpin.hooks import Hook
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.elf.executable import Executable
from bpfpin.objfile.elf.usdt import Probe, ProbeArgument, pack_spec, parse_arguments, read_probes
from bpfpin.records import dataclass

_FORM: Final = (
    "a probe of a file, such as libstdc++:libstdcxx:throw or /usr/bin/python3:python:gc__start"
)
_PLACE: Final = ",place="


@dataclass(frozen=True, slots=True)
class ProbePlace:
    """One place of a probe in its file, by offsets, and where its arguments are."""

    offset: int
    reference_counter: int
    arguments: tuple[ProbeArgument, ...]


def attach_usdt(
    program: Program,
    path: str | Path,
    provider: str,
    name: str,
    *,
    specs: Map | None = None,
    pid: int | None = None,
    cookie: int = 0,
) -> Link:
    """Attach *program* to a probe (USDT) of a user program or library, at all of its places.

    Closing the link detaches it, unless it is pinned.

    Args:
        program: A program of type KPROBE (section `usdt`).
        path: The file, as `attach_uprobe` takes it.
        provider: The provider of the probe, as `readelf -n` shows it.
        name: The name of the probe.
        specs: The map `__bpf_usdt_specs` of the program's object, which gets the places of the
            arguments. Default: none, for programs that read no arguments.
        pid: Probe this process alone. Default: all.
        cookie: The number that bpf_usdt_cookie() returns in the program; needs *specs*.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: There is no such file, process or probe.
        ObjectFileError: The file is not an ELF file, or damaged, or an argument cannot be read.
        MapFullError: *specs* has no room.
        NotSupportedError: The probe has several places, and the kernel has no links for that; or it
            has no uprobes.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_PERFMON or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_TRACE_UPROBE_MULTI (Linux 6.6), else perf_event_open(2) and
        BPF_LINK_CREATE with BPF_PERF_EVENT (Linux 5.15).
    """
    require_type(program, Hook.USDT)
    process = require_pid(pid)
    file = find_file(str(path), process)
    places = find_places(file, provider, name)
    return _attach(program, file, places, specs, pid=process, cookie=cookie)


def find_places(path: Path, provider: str, name: str) -> list[ProbePlace]:
    """Return the places of a probe in the file at *path*."""
    with Executable(path) as executable:
        probes = list(read_probes(executable))
        wanted = [probe for probe in probes if (probe.provider, probe.name) == (provider, name)]
        if not wanted:
            raise _no_probe(path, f"{provider}:{name}", probes)
        return [_place(executable, probe) for probe in wanted]


def _place(executable: Executable, probe: Probe) -> ProbePlace:
    text = f"probe {probe.provider}:{probe.name}"
    offset = executable.file_offset(probe.address)
    if offset is None:
        raise executable.error(f"{text} is not in a segment with code")
    counter = 0
    if probe.semaphore:
        counter = executable.file_offset(probe.semaphore, is_code=False) or 0
    arguments = tuple(
        _located(executable, probe, argument)
        for argument in parse_arguments(probe.arguments, executable.machine)
    )
    return ProbePlace(require_code(executable, offset, text), counter, arguments)


def _located(executable: Executable, probe: Probe, argument: ProbeArgument) -> ProbeArgument:
    if not argument.symbol:
        return argument
    address = executable.variable_address(argument.symbol)
    if address is None:
        raise executable.error(
            f"probe {probe.provider}:{probe.name} has the variable {argument.symbol} as an"
            " argument, which the symbols do not have"
        )
    return argument.with_address(address, probe.address)


def _no_probe(path: Path, text: str, probes: list[Probe]) -> TargetNotFoundError:
    there = sorted({f"{probe.provider}:{probe.name}" for probe in probes})
    near = similar(text, there) or there[:5]
    hint = f"near it: {', '.join(near)}" if near else "the file has no probes"
    return TargetNotFoundError(f"{path} has no probe {text!r}", hint=hint)


def _attach(
    program: Program,
    path: Path,
    places: list[ProbePlace],
    specs: Map | None,
    *,
    pid: int = 0,
    cookie: int = 0,
) -> Link:
    numbers = [_number(specs, place, cookie) for place in places]
    counters = [place.reference_counter for place in places]
    if kernel_has_links(Hook.UPROBE_MULTI):
        offsets = [place.offset for place in places]
        all_places = UprobePlaces(path, offsets, pid, numbers, counters if any(counters) else ())
        return uprobe_multi.attach_at(program, Hook.USDT, all_places)
    if len(places) > 1:
        raise NotSupportedError(
            f"the probe has {len(places)} places, and this kernel has no links at several"
            " (Linux 6.6)",
            feature="uprobe-multi",
            since="6.6",
        )
    place = UprobePlace(path, places[0].offset, pid, counters[0])
    return uprobes.attach_at(program, Hook.USDT, place, cookie=numbers[0])


def _number(specs: Map | None, place: ProbePlace, cookie: int) -> int:
    """Return the number of the place's spec in the map, which is written if it is not there.

    Equal specs have one number. So a number means the same as long as the map lives, for the
    programs of one generation and of the next.
    """
    if specs is None:
        return 0
    try:
        spec = pack_spec(place.arguments, specs.value_size, cookie=cookie)
    except ValueError as error:
        raise UsageError(
            f"map {specs.name}: {error}",
            hint="define BPF_USDT_MAX_ARG_CNT before <bpf/usdt.bpf.h>",
        ) from None
    empty = bytes(specs.value_size)
    if spec == empty:  # entry 0 stays empty: no arguments and no cookie
        return 0
    for number in range(1, specs.max_entries):
        key = number.to_bytes(4, "little")
        there = specs.lookup_bytes(key)
        if there == empty:
            specs.update_bytes(key, spec)
            return number
        if there == spec:
            return number
    raise MapFullError(
        f"map {specs.name}: no room for one more place of a probe, of {specs.max_entries}",
        hint=Fix.of(
            "define BPF_USDT_MAX_SPEC_CNT before <bpf/usdt.bpf.h>, or have it made anew: ",
            Argument("fresh", [specs.name]),
        ),
    )


class UsdtCode(HookCode):
    """The code of probes in user programs."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link, and write where the arguments are."""
        require_type(program, hook)
        typed, path, places = self._places(target.name)
        specs = target.maps.get(hook.traits.map)
        link = _attach(program, path, places, specs, pid=typed.pid)
        return NewAttachment(hook, link, note="".join(self._notes(program, target, places)))

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Find the probe, and read where its arguments are."""
        _, _, places = self._places(target.name)
        return "".join(self._notes(program, target, places))

    def targets(self, hook: Hook, name: str) -> list[str]:
        """Return a target for each place, where the kernel has no links for several."""
        typed, _, places = self._places(name)
        if len(places) < 2 or kernel_has_links(Hook.UPROBE_MULTI):
            return [name]
        end = f",pid={typed.pid}" if typed.pid else ""
        return [
            f"{name.removesuffix(end)}{_PLACE}{number}{end}" for number in range(1, len(places) + 1)
        ]

    def _places(self, name: str) -> tuple[UserTarget, Path, list[ProbePlace]]:
        typed = UserTarget.parse(name, parts=2, form=_FORM)
        probe, _, number = typed.what.partition(_PLACE)
        provider, _, probe_name = probe.partition(":")
        path = typed.path()
        places = find_places(path, provider, probe_name)
        if not number:
            return typed, path, places
        if not number.isdecimal() or not 0 < int(number) <= len(places):
            raise TargetNotFoundError(f"{path} has {len(places)} places of {probe}, not {number}")
        return typed, path, places[int(number) - 1 : int(number)]

    def _notes(
        self, program: Program, target: HookTarget, places: list[ProbePlace]
    ) -> Iterator[str]:
        if len(places) > 1:
            yield f"{program.name}: {target.name} is {len(places)} places"


CODE = UsdtCode()
