"""The code of the hooks: `code_of` finds it by the row, `HookCode` says what each file offers.

`bpfpin.hooks` has the facts of all hooks. A file of code is imported when `code_of` asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bpfpin.choices import similar
from bpfpin.errors import NotSupportedError, TargetNotFoundError
from bpfpin.hooks import HeldBy, Hook, TargetKind, XdpMode, hooks_at
from bpfpin.objects.link import HookAttachment, Link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from bpfpin.attach.devices import DeviceRow
    from bpfpin.attach.order import Order
    from bpfpin.objects.maps.map import Map


@dataclass(frozen=True, slots=True)
class HookTarget:
    """What a program is attached to, in the current network namespace.

    Each hook reads the field of its own kind of target (`HookTraits.target`). *name* is that of the
    function, tracepoint, … that the section of a program names, or the user. *maps* are those of
    the program's object, by name, for hooks that need one.
    """

    ifindex: int = 0
    cgroup: Path | None = None
    name: str = ""
    maps: Mapping[str, Map] = field(default_factory=dict)

    def open_map(self) -> Map:
        """Open the map that is the target; `TargetNotFoundError` if the object has no such map."""
        if self.name not in self.maps:
            near = similar(self.name, self.maps) or list(self.maps)
            raise TargetNotFoundError(
                f"the object has no map {self.name!r}",
                hint=f"it has: {', '.join(near)}" if near else "",
            )
        bpf_map = self.maps[self.name]
        return type(bpf_map).of(bpf_map)


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """Options for hooks that have a mode or an order.

    Loads refuse an option that no hook of theirs has (`sets.choose.check_options`), so a set may
    have other hooks beside, which ignore it.
    """

    mode: XdpMode = XdpMode.AUTO
    order: Order | None = None


class RememberedHook(Protocol):
    """The part of a manifest's record that opens a hook again which no link holds."""

    @property
    def held_by(self) -> HeldBy:
        """What holds it."""

    @property
    def target(self) -> str:
        """What the program names as its target, "" if nothing."""

    @property
    def mode(self) -> str:
        """The XDP mode taken, "" where there are none."""

    @property
    def priority(self) -> int:
        """The priority of a filter."""

    @property
    def handle(self) -> int:
        """The handle of a filter, the id of the map that holds it, or the index of its device."""

    @property
    def made_qdisc(self) -> bool:
        """Whether the qdisc goes with its last filter."""


@dataclass(frozen=True, slots=True)
class NewAttachment:
    """A program attached at *hook*, by *link*; without one it is only prepared.

    What no link holds outlives a crash, so it is written to the manifest before it is made:
    `HookCode.attach` prepares it, and `HookCode.complete` makes it. *hook* may be another one than
    was asked for, where the kernel lacks that; *note* says so. *slot* is that of a stub.
    """

    hook: Hook
    link: Link | None = None
    note: str = ""
    target: str = ""
    held_by: HeldBy = HeldBy.LINK
    mode: str = ""
    priority: int = 0
    handle: int = 0
    made_qdisc: bool = False
    slot: Map | None = None


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """A program found at a hook of this host.

    *link_id* is that of the link that holds it, 0 for none, None where the hook does not tell.
    """

    hook: Hook
    program_id: int
    ifindex: int = 0
    mode: str = ""
    link_id: int | None = None


class HookHolder(Protocol):
    """The program at a hook that runs one only; its text says in words what holds it."""

    @property
    def program_id(self) -> int:
        """The id of the program."""

    @property
    def link_id(self) -> int | None:
        """The id of the link that holds it; None without one."""

    @property
    def is_link_known(self) -> bool:
        """Whether this user can see which link holds it."""

    @property
    def mode(self) -> XdpMode:
        """The XDP mode that it runs in."""


class HookCode:
    """What the hooks of one file of `attach/` do in the kernel.

    Each file has one instance, called CODE. A hook that is always held by links needs `attach`
    alone: links are opened again by their pins, and found on the host by their type.
    """

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach *program*, or prepare what no link holds; the caller closes the link."""
        raise NotImplementedError(hook.value)

    def targets(self, hook: Hook, name: str) -> list[str]:
        """Return the targets, a link each, that the target *name* stands for.

        Asked where `HookTraits.has_several_links`. Each of them stands for itself alone.
        """
        return [name]

    def program_target(self, target: HookTarget) -> tuple[Program, str] | None:
        """Open the program that *target* names, and return it with a function of it.

        None where programs are not loaded for a function of another program. The caller closes it.
        """
        return None

    def map_of(self, target: str) -> str:
        """Return the map of the program's object that an attachment to *target* holds, "" for none.

        If the next generation has another map under that name, a reload attaches anew.
        """
        return ""

    def context_size(self, hook: Hook, target: HookTarget) -> int | None:
        """Return how many bytes of the context programs may read at *target*.

        None where the verifier knows, so that nothing is left to check when a program is attached.
        """
        return None

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Return the note that `attach` would return, as far as it is known without attaching.

        Raises the refusals of `attach` that are known.
        """
        return ""

    def refused_update(
        self,
        program: Program,
        target: HookTarget,
        mode: XdpMode,
        error: NotSupportedError | None = None,
    ) -> NotSupportedError | None:
        """Return why *program* cannot take the place of the one that runs in *mode*, if known.

        *error* is the kernel's refusal; None if the refusal is foreseen. The fix of the returned
        error is what to ask for at the next load, for a mode does not change in place.
        """
        return None

    def is_incoming(self, hook: Hook, name: str) -> bool:
        """Whether the packets that pass the target *name* come in."""
        return hook.traits.packets is not None and hook.traits.packets.is_incoming

    def test_input(self, hook: Hook, name: str, frame: bytes) -> tuple[bytes, bytes] | None:
        """Return data and context by which a program at the target *name* is tried on a frame.

        None if such a packet does not pass there. Asked where the form of packets is OWN.
        """
        raise NotImplementedError(hook.value)

    def network(self, target: HookTarget) -> IPv4Network | IPv6Network | None:
        """Return the network to which all packets go that pass *target*; None: to any."""
        return None

    def complete(
        self, program: Program, hook: Hook, target: HookTarget, prepared: RememberedHook
    ) -> None:
        """Make what `attach` only prepared."""
        raise NotImplementedError(hook.value)

    def reopen(self, hook: Hook, target: HookTarget, remembered: RememberedHook) -> HookAttachment:
        """Return the attachment that no link holds, as crash recovery and `unload` change it."""
        raise NotImplementedError(hook.value)

    def holder(self, target: HookTarget) -> HookHolder | None:
        """Return what holds a hook that runs one program only; None if it is free, or unknown."""
        return None

    def detach_line(self, hook: Hook, device: str, remembered: RememberedHook) -> str:
        """Return the line to type that detaches what no link holds."""
        raise NotImplementedError(hook.value)

    def running_on(self, devices: Iterable[DeviceRow]) -> Iterator[RunningProgram]:
        """Yield what these hooks run on *devices* of the current network namespace.

        `PermissionDeniedError` if this user cannot ask; devices that are gone are left out.
        """
        yield from ()

    def running_in(self, cgroup_fd: int, hook: Hook) -> Iterator[RunningProgram]:
        """Yield what a cgroup itself runs at *hook*, in order, without its links."""
        yield from ()


def code_of(hook: Hook) -> HookCode:
    """Return the code of a hook; its module is imported now."""
    return code_named(hook.traits.code)


def running_on_devices(devices: Collection[DeviceRow]) -> Iterator[RunningProgram]:
    """Yield what all hooks of devices run on *devices* of the current network namespace.

    One kind of hook after the other, in the order of the registry. `PermissionDeniedError` for the
    first kind that this user cannot ask.
    """
    # Several hooks share a file of code; each file is asked once, in the order of the registry.
    for name in dict.fromkeys(hook.traits.code for hook in hooks_at(TargetKind.DEVICE)):
        yield from code_named(name).running_on(devices)


def code_named(name: str) -> HookCode:
    """Return the code in the module *name* of this folder (`HookTraits.code`)."""
    code = importlib.import_module(f"bpfpin.attach.{name}").CODE
    assert isinstance(code, HookCode)
    return code
