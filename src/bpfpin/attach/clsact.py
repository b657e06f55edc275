"""Classic tc: programs in filters of the qdisc clsact, for kernels without tcx or beside it.

A filter has no link: it outlives every process, and the kernel replaces its program without
comparing (RTM_NEWTFILTER has no counterpart of BPF_F_REPLACE). So the program is read before and
after a change, and the manifest remembers whether the qdisc was made by us. The messages are those
of tc(8), sent without pyroute2, which does not read the program id of a filter.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from bpfpin.attach import interface as interfaces
from bpfpin.attach.devices import DeviceRow
from bpfpin.attach.order import require_hook, require_type
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RememberedHook,
    RunningProgram,
)
from bpfpin.choices import choice_of
from bpfpin.errors import HookBusyError, IdNotFoundError, ProgramChangedError, UsageError
from bpfpin.hints import shell_line
from bpfpin.hooks import Hook
from bpfpin.objects.link import LinklessAttachment
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.rtnetlink import (
    NO_FLAGS,
    RequestFlag,
    RouteCommand,
    attribute,
    attributes,
    request,
)

_MESSAGE = struct.Struct("=BxxxiIII")  # tcmsg of linux/rtnetlink.h
_U32 = struct.Struct("=I")
_PROTOCOL = socket.htons(3)  # ETH_P_ALL of linux/if_ether.h, in network order

# TC_H_CLSACT of linux/pkt_sched.h, which is TC_H_INGRESS, too: of the qdiscs clsact and ingress a
# device has at most one.
_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_PARENTS = {Hook.TC_INGRESS: 0xFFFFFFF2, Hook.TC_EGRESS: 0xFFFFFFF3}  # TC_H_MIN_*

_KIND, _OPTIONS, _CHAIN = 1, 2, 11  # TCA_* of linux/rtnetlink.h
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11  # TCA_BPF_* of linux/pkt_cls.h
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT

CLSACT = "clsact"
BPF = "bpf"
# Before the priorities that tc(8) takes by itself (49152 and down), after those typed by hand.
PRIORITY = 191


@dataclass(frozen=True, slots=True)
class FilterPlace:
    """The identity of a filter: unique among the filters of a network namespace.

    Attributes:
        ifindex: The index of the device.
        hook: TC_INGRESS or TC_EGRESS.
        priority: The priority of the filter; the lowest number runs first.
        handle: The number of the filter within its priority.
        chain: The chain of the filter; every packet begins in chain 0.
    """

    ifindex: int
    hook: Hook
    priority: int
    handle: int
    chain: int = 0  # ours are in chain 0, where every packet begins

    def __str__(self) -> str:
        return f"filter {self.handle} of priority {self.priority} at {self.hook.value}"


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as the kernel reports it; *program_id* is 0 where no eBPF program runs."""

    place: FilterPlace
    kind: str
    name: str
    program_id: int
    is_direct_action: bool


class ClsactFilter(LinklessAttachment):
    """A filter with direct action that runs one program, at a hook of classic tc.

    It stays when the process ends: `close` does nothing, `detach` or the end of `with` removes it.

    Attributes:
        made_qdisc: Whether `detach` removes the qdisc, too, once no filter is left in it.
    """

    def __init__(self, place: FilterPlace, *, program_id: int, made_qdisc: bool) -> None:
        """Open a filter again that was made before.

        Args:
            place: Where the filter is.
            program_id: The id of the program expected there.
            made_qdisc: Whether the qdisc was made for the filter.
        """
        self._place = place
        self._expected_id = program_id
        self.made_qdisc = made_qdisc

    @property
    def ifindex(self) -> int:
        """The index of the device."""
        return self._place.ifindex

    @property
    def hook(self) -> Hook:
        """TC_INGRESS or TC_EGRESS."""
        return self._place.hook

    @property
    def priority(self) -> int:
        """The priority, `pref` in tc(8): filters with lower ones run first."""
        return self._place.priority

    @property
    def handle(self) -> int:
        """The number of the filter among those of its priority, `handle` in tc(8)."""
        return self._place.handle

    def program_id(self) -> int:
        """Return the id of the program that the filter runs now.

        Returns:
            The id; 0 if the filter is gone.

        Raises:
            InterfaceNotFoundError: The device is gone.

        Kernel: RTM_GETTFILTER.
        """
        interfaces.ifindex(self.ifindex)
        own = (entry for entry in filters(self.ifindex, self.hook) if entry.place == self._place)
        return next((entry.program_id for entry in own), 0)

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run another program from the next packet on, without losing one.

        Args:
            program: The program to run, of type SCHED_CLS.
            expected_old: The program that has to run now; None for any.

        Raises:
            ProgramChangedError: Another program than *expected_old* runs, or the filter is gone.
            InterfaceNotFoundError: The device is gone.

        Kernel: RTM_NEWTFILTER without NLM_F_CREATE.
        """
        # RTM_NEWTFILTER cannot compare: the program is read before and after, so a change by others
        # is reported. cls_bpf_change() of net/sched/cls_bpf.c replaces the filter in its list by
        # list_replace_rcu(): each packet meets the old or the new program, and none meets neither.
        running = self.program_id()
        if running == 0 or (expected_old is not None and running != expected_old.id):
            raise self._changed(running)
        try:
            change_filter(self._place, program.fd, program.name)
        except (IdNotFoundError, InvalidArgumentError):  # the filter, or the qdisc, went just now
            raise self._changed(0) from None
        self._expected_id = program.id
        after = self.program_id()
        if after != program.id:
            raise self._changed(after)

    def detach(self) -> None:
        """Remove the filter, and the qdisc if we made it and no other filter is in it.

        Does nothing if the filter or the device is gone.

        Raises:
            ProgramChangedError: The filter runs another program than ours.

        Kernel: RTM_DELTFILTER, RTM_DELQDISC.
        """
        if not interfaces.name_of(self.ifindex):
            return
        running = self.program_id()
        if running not in (0, self._expected_id):
            raise self._changed(running)
        # The filter first: the qdisc may only go if no filter of others is in it.
        if running:
            delete_filter(self._place)
        if self.made_qdisc:
            _delete_if_empty(self.ifindex)

    def _changed(self, running: int) -> ProgramChangedError:
        place = f"{self.hook.value} of {interfaces.name_of(self.ifindex)}"
        state = f"runs program id {running}" if running else "is gone"
        return ProgramChangedError(
            f"the filter {self.handle:#x} of priority {self.priority} at {place} {state};"
            f" program id {self._expected_id} was expected",
            holder=f"program id {running}" if running else "",
        )


def attach_clsact(
    program: Program,
    interface: str | int,
    hook: Hook | str,
    *,
    priority: int | None = None,
    handle: int | None = None,
) -> ClsactFilter:
    """Attach a tc program by a filter of classic tc, like `tc filter add … bpf direct-action`.

    The qdisc clsact is created if the device has none. The filter stays when the process ends,
    until `detach` or the end of a `with` removes it.

    Args:
        program: A program of type SCHED_CLS.
        interface: Name or ifindex of a device of the current network namespace.
        hook: `Hook.TC_INGRESS` or `Hook.TC_EGRESS`, or its word.
        priority: From 1 to 65535; filters with lower ones run first. Default: 191.
        handle: From 1 to 2**32 - 1. Default: the id of the program, or the next free number.

    Returns:
        The filter.

    Raises:
        HookBusyError: The hook runs this program already, the handle is taken, or the device has
            the qdisc ingress, which has no egress.
        WrongHookError: The program is of another type, or the hook is not one of classic tc.
        UsageError: *priority* or *handle* is out of range.
        InterfaceNotFoundError: The device is not in this network namespace.
        PermissionDeniedError: CAP_NET_ADMIN is missing.

    Kernel: RTM_NEWQDISC, RTM_NEWTFILTER (Linux 4.5).
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, "clsact", "classic tc")
    require_type(program, hook)
    wanted = PRIORITY if priority is None else priority
    _require_number("priority", wanted, 0xFFFF)
    if handle is not None:
        _require_number("handle", handle, 0xFFFFFFFF)
    ifindex = interfaces.ifindex(interface)
    made_qdisc = _ensure_qdisc(ifindex, hook)
    try:
        place = _place(program, FilterPlace(ifindex, hook, wanted, handle or 0))
        create_filter(place, program.fd, program.name)
    # Also after Ctrl-C: nobody else knows that the qdisc is ours, and would remove it.
    except BaseException:
        if made_qdisc:
            _delete_if_empty(ifindex)
        raise
    return ClsactFilter(place, program_id=program.id, made_qdisc=made_qdisc)


def _require_number(what: str, number: int, highest: int) -> None:
    if not 0 < number <= highest:  # 0 makes the kernel choose one
        raise UsageError(f"{what} {number} is not between 1 and {highest}")


def _place(program: Program, wanted: FilterPlace) -> FilterPlace:
    """Return where the filter goes, with a handle: the program's id makes it known beforehand."""
    existing = filters(wanted.ifindex, wanted.hook)
    _require_absent(program, existing)
    if wanted.handle:
        return wanted
    # Handles are unique within one priority: each priority has its own list of filters.
    taken = {entry.place.handle for entry in existing if entry.place.priority == wanted.priority}
    return replace(wanted, handle=_free_handle(program.id, taken))


def _ensure_qdisc(ifindex: int, hook: Hook) -> bool:
    """Create the qdisc clsact unless the device has it; return whether it was created."""
    try:
        # With NLM_F_EXCL: the answer tells whether the qdisc was made now, without a look before.
        create_clsact(ifindex)
    except HookBusyError:
        kind = qdiscs().get(ifindex, "")
        if hook not in _hooks_of_qdisc(kind):
            name = interfaces.name_of(ifindex)
            remove = shell_line("tc qdisc del dev", name, kind)
            raise HookBusyError(
                f"{name} has the qdisc {kind or 'of another kind'} where clsact would be,"
                " and that one has no egress",
                holder=f"qdisc {kind}",
                hint=f"remove it with all its filters: {remove}" if kind else "",
            ) from None
        return False
    return True


def _hooks_of_qdisc(kind: str) -> list[Hook]:
    """Return the hooks of a qdisc.

    The qdisc `ingress` has no egress, but the kernel does not refuse TC_H_MIN_EGRESS there: it
    lists, and runs, filters for egress at ingress (ingress_tcf_block of net/sched/sch_ingress.c).
    """
    return list(_PARENTS) if kind == CLSACT else [Hook.TC_INGRESS]


def _require_absent(program: Program, existing: Collection[Filter]) -> None:
    for entry in existing:
        if entry.program_id == program.id:
            place = entry.place
            holder = f"filter {place.handle:#x} of priority {place.priority}"
            raise HookBusyError(
                f"{place.hook.value} of {interfaces.name_of(place.ifindex)} runs this program"
                f" already: program id {program.id} in {holder}",
                holder=holder,
            )


def _free_handle(wanted: int, taken: Collection[int]) -> int:
    while wanted in taken:
        wanted += 1
    return wanted


def _delete_if_empty(ifindex: int) -> None:
    """Remove the qdisc clsact; the kernel would remove it with filters in it, so look first."""
    # rtnetlink has no conditional removal: a filter that others add right after the look goes too.
    is_clsact = qdiscs().get(ifindex) == CLSACT
    if is_clsact and not any(filters(ifindex, hook) for hook in _PARENTS):
        delete_clsact(ifindex)


# rtnetlink: the qdisc and its filters.


def qdiscs() -> dict[int, str]:
    """Return the qdisc that has the tc hooks, `clsact` or `ingress`, of each device with one."""
    body = _MESSAGE.pack(0, 0, 0, 0, 0)
    kinds = {}
    for answer in request(RouteCommand.GETQDISC, body, flags=RequestFlag.DUMP, target="qdiscs"):
        _, ifindex, _, parent, _ = _MESSAGE.unpack_from(answer)
        if parent == _CLSACT:
            kinds[ifindex] = _text(attributes(answer[_MESSAGE.size :]).get(_KIND, b""))
    return kinds


def create_clsact(ifindex: int) -> None:
    """Create the qdisc clsact; `HookBusyError` if the device has it or the qdisc ingress."""
    flags = RequestFlag.CREATE | RequestFlag.EXCLUSIVE
    request(RouteCommand.NEWQDISC, _clsact(ifindex), flags=flags, target=f"clsact of {ifindex}")


def delete_clsact(ifindex: int) -> None:
    """Remove the qdisc clsact with all filters in it."""
    request(RouteCommand.DELQDISC, _clsact(ifindex), target=f"clsact of {ifindex}")


def clsact_filters(ifindex: int) -> tuple[Filter, ...]:
    """Return the filters of a device that run an eBPF program, ingress first.

    There are none where the device is gone.
    """
    kind = qdiscs().get(ifindex)
    return tuple(_with_program(ifindex, kind)) if kind is not None else ()


def _with_program(ifindex: int, qdisc: str) -> Iterator[Filter]:
    for hook in _hooks_of_qdisc(qdisc):
        yield from (entry for entry in filters(ifindex, hook) if entry.program_id)


def filters(ifindex: int, hook: Hook) -> list[Filter]:
    """Return the filters of a hook in the kernel's order; none where the device is gone."""
    body = _MESSAGE.pack(0, ifindex, 0, _PARENTS[hook], 0)
    target = f"filters of {ifindex}"
    answers = request(RouteCommand.GETTFILTER, body, flags=RequestFlag.DUMP, target=target)
    entries = [_filter(answer, hook) for answer in answers]
    # The kernel lists each priority by itself, too, as an entry without a handle.
    return [entry for entry in entries if entry.place.handle]


def create_filter(place: FilterPlace, program_fd: int, name: str) -> None:
    """Add a filter; `HookBusyError` if the priority and handle are taken."""
    flags = RequestFlag.CREATE | RequestFlag.EXCLUSIVE
    _set_filter(place, program_fd, name, flags)


def change_filter(place: FilterPlace, program_fd: int, name: str) -> None:
    """Make a filter run another program from the next packet on; `IdNotFoundError` if it is gone.

    Without NLM_F_CREATE, which `tc filter replace` sets: a filter that was removed stays removed.
    """
    _set_filter(place, program_fd, name, NO_FLAGS)


def delete_filter(place: FilterPlace) -> None:
    """Remove a filter; `IdNotFoundError` if it is gone."""
    request(RouteCommand.DELTFILTER, _head(place), target=str(place))


def _set_filter(place: FilterPlace, program_fd: int, name: str, flags: RequestFlag) -> None:
    options = b"".join(
        (
            attribute(_BPF_FD, _U32.pack(program_fd)),
            attribute(_BPF_NAME, name.encode() + b"\0"),
            attribute(_BPF_FLAGS, _U32.pack(_DIRECT_ACTION)),
        )
    )
    body = _head(place) + attribute(_OPTIONS, options)
    request(RouteCommand.NEWTFILTER, body, flags=flags, target=str(place))


def _head(place: FilterPlace) -> bytes:
    # tcm_info: the priority in the upper half, the protocol below (TC_H_MAKE of linux/pkt_sched.h).
    info = place.priority << 16 | _PROTOCOL
    message = _MESSAGE.pack(0, place.ifindex, place.handle, _PARENTS[place.hook], info)
    return message + attribute(_KIND, BPF.encode() + b"\0")


def _clsact(ifindex: int) -> bytes:
    message = _MESSAGE.pack(0, ifindex, _CLSACT_HANDLE, _CLSACT, 0)
    return message + attribute(_KIND, CLSACT.encode() + b"\0")


def _filter(answer: bytes, hook: Hook) -> Filter:
    _, ifindex, handle, _, info = _MESSAGE.unpack_from(answer)
    fields = attributes(answer[_MESSAGE.size :])
    kind = _text(fields.get(_KIND, b""))
    # The numbers of TCA_OPTIONS have other meanings for other kinds of filters.
    options = attributes(fields.get(_OPTIONS, b"")) if kind == BPF else {}
    return Filter(
        FilterPlace(ifindex, hook, info >> 16, handle, _number(fields.get(_CHAIN))),
        kind,
        _text(options.get(_BPF_NAME, b"")),
        _number(options.get(_BPF_ID)),
        bool(_number(options.get(_BPF_FLAGS)) & _DIRECT_ACTION),
    )


def _number(payload: bytes | None) -> int:
    return int(_U32.unpack(payload)[0]) if payload else 0


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


class ClsactCode(HookCode):
    """The code of the hooks of classic tc."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Prepare a filter whose handle, and whose qdisc it is, are known before it is made."""
        has_clsact = qdiscs().get(target.ifindex) == CLSACT
        return NewAttachment(
            hook,
            held_by=hook.traits.held_by,
            priority=PRIORITY,
            handle=program.id,
            made_qdisc=not has_clsact,
        )

    def complete(
        self, program: Program, hook: Hook, target: HookTarget, prepared: RememberedHook
    ) -> None:
        """Create the filter, and the qdisc where it is missing."""
        priority, handle = prepared.priority, prepared.handle
        attach_clsact(program, target.ifindex, hook, priority=priority, handle=handle)

    def reopen(self, hook: Hook, target: HookTarget, remembered: RememberedHook) -> ClsactFilter:
        """Return the filter with the program that it runs now: the caller has compared it."""
        # Others may have made a filter with this priority and handle since, so the caller compares
        # the program with the recorded one before it changes anything.
        place = FilterPlace(target.ifindex, hook, remembered.priority, remembered.handle)
        running = ClsactFilter(place, program_id=0, made_qdisc=False).program_id()
        return ClsactFilter(place, program_id=running, made_qdisc=remembered.made_qdisc)

    def detach_line(self, hook: Hook, device: str, remembered: RememberedHook) -> str:
        """Return the line of tc(8) that removes the filter."""
        return (
            f"{shell_line('tc filter del dev', device)} {hook.value.removeprefix('tc-')}"
            f" pref {remembered.priority} handle {remembered.handle:#x} bpf"
        )

    def running_on(self, devices: Iterable[DeviceRow]) -> Iterator[RunningProgram]:
        """Yield the programs in filters: one dump tells which devices have the qdisc at all."""
        kinds = qdiscs()
        for device in devices:
            if device.ifindex not in kinds:
                continue
            for entry in _with_program(device.ifindex, kinds[device.ifindex]):
                hook, program_id = entry.place.hook, entry.program_id
                yield RunningProgram(hook, program_id, device.ifindex, link_id=0)


CODE = ClsactCode()
