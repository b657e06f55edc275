"""XDP: programs at the driver's receive path of a network device, held by a link."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from bpfpin.attach import devices
from bpfpin.attach import interface as interfaces
from bpfpin.attach.devices import XdpFeature
from bpfpin.errors import (
    Argument,
    BpfError,
    Fix,
    HookBusyError,
    NotSupportedError,
    PermissionDeniedError,
    SyscallError,
    WrongHookError,
)
from bpfpin.objects.kernel.info import links
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import XdpMode, choice_of
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import AttachType, LinkType, ProgramType, XdpFlag

_FLAGS = {
    XdpMode.NATIVE: XdpFlag.DRV_MODE,
    XdpMode.GENERIC: XdpFlag.SKB_MODE,
    XdpMode.OFFLOAD: XdpFlag.HW_MODE,
}
_INSTEAD = {
    XdpMode.NATIVE: Fix.of("without the driver: ", Argument("mode", XdpMode.GENERIC)),
    XdpMode.OFFLOAD: Fix.of(
        "in the driver: ",
        Argument("mode", XdpMode.NATIVE),
        ", or without it: ",
        Argument("mode", XdpMode.GENERIC),
    ),
}
# The kernel's words (dev_xdp_attach of net/core/dev.c), with EOPNOTSUPP.
NO_NATIVE = "Underlying driver does not support XDP in native mode"
VETH = "veth"


class XdpLink(Link):
    """A link at an XDP hook: *mode* is the one taken, *note* says why it is not a better one."""

    mode: XdpMode = XdpMode.AUTO
    note: str = ""


@dataclass(frozen=True, slots=True)
class XdpHolder:
    """Who is attached to a device; *link_id* is None for a program held by netlink alone.

    Without CAP_SYS_ADMIN links cannot be seen: then `is_link_known` is False and *link_id* None.
    """

    program_id: int
    program_name: str
    mode: XdpMode
    link_id: int | None
    is_link_known: bool = True

    def __str__(self) -> str:
        name = f" ({self.program_name})" if self.program_name else ""
        return f"program id {self.program_id}{name} in {self.mode.value} mode, {self._held()}"

    def _held(self) -> str:
        if not self.is_link_known:
            return "and whether a link holds it is not visible to this user"
        by = f"link id {self.link_id}" if self.link_id else "netlink, without a link"
        return f"held by {by}"


def attach_xdp(
    program: Program, interface: str | int, *, mode: XdpMode | str = XdpMode.AUTO
) -> XdpLink:
    """Attach *program* to a device; closing the link detaches it, unless the link is pinned.

    *interface* is a name or an ifindex of the current network namespace. AUTO tries native mode,
    and generic mode when the driver has no native one; `note` then has the driver's words.
    `HookBusyError` says who holds the device, `NotSupportedError` why a mode is refused. Like
    `ip link set dev DEV xdp…`, by BPF_LINK_CREATE (Linux 5.9).
    """
    mode = choice_of(XdpMode, mode, what="XDP mode")
    if program.type != ProgramType.XDP:
        kind = getattr(program.type, "name", str(program.type)).lower()
        raise WrongHookError(f"program {program.name!r} is of type {kind}, not xdp")
    ifindex = interfaces.ifindex(interface)
    try:
        return _attach(program, ifindex, XdpMode.NATIVE if mode is XdpMode.AUTO else mode)
    except _Refused as refused:
        if mode is not XdpMode.AUTO:
            raise refused.error from None
        words = refused.words
    try:
        link = _attach(program, ifindex, XdpMode.GENERIC)
    except _Refused as refused:
        raise refused.error from None
    link.note = generic_note(ifindex, words)
    return link


def generic_note(ifindex: int, words: str) -> str:
    """Return what is told of a device that refused native mode with the kernel's *words*."""
    name = interfaces.name_of(ifindex)
    return f"{name} runs it in generic mode, for native mode was refused: {words}"


def mode_refusal(
    program: Program, ifindex: int, mode: XdpMode, words: str, *, error: SyscallError | None = None
) -> NotSupportedError:
    """Return the exception for a device that refuses *program* in *mode* with *words*.

    *error* is the kernel's refusal, None for one that is foreseen.
    """
    name = interfaces.name_of(ifindex) or f"ifindex {ifindex}"
    hint = _INSTEAD.get(mode, Fix(()))
    if "MTU" in words:
        hint = hint.joined('; or build it for frames in several buffers: SEC("xdp.frags")')
    return NotSupportedError(
        f"{name} refuses program {program.name} in {mode.value} mode: {words}",
        feature=f"XDP in {mode.value} mode",
        command=error.command if error else "",
        errno=(error.errno or 0) if error else 0,
        hint=hint,
    )


def xdp_holder(ifindex: int) -> XdpHolder | None:
    """Return who is attached to the device with this ifindex, None if nobody is."""
    from bpfpin.attach.netlink import aside  # noqa: PLC0415 - 125 ms, for a held device only

    found = aside(lambda netlink: netlink.xdp_program_ids(ifindex))
    for mode, program_id in found.items():
        name = ""
        with contextlib.suppress(BpfError), Program.from_id(program_id) as program:
            name = program.name
        try:
            return XdpHolder(program_id, name, mode, _link_id(ifindex, program_id))
        except PermissionDeniedError:
            return XdpHolder(program_id, name, mode, None, is_link_known=False)
    return None


class _Refused(Exception):  # noqa: N818 - it never leaves this file
    """The device refused a mode: *error* is what to raise, *words* are the kernel's."""

    def __init__(self, error: SyscallError, words: str) -> None:
        super().__init__(words)
        self.error = error
        self.words = words


def _attach(program: Program, ifindex: int, mode: XdpMode) -> XdpLink:
    try:
        link = XdpLink.create(program, ifindex, AttachType.XDP, flags=_FLAGS[mode])
    except HookBusyError as error:
        raise _busy(program, ifindex, mode, error) from None
    except PermissionDeniedError:
        raise
    except SyscallError as error:
        interfaces.ifindex(ifindex)  # a device that is gone meanwhile is refused with EINVAL, too
        raise _refused(program, ifindex, mode, error) from None
    link.mode = mode
    return link


def _refused(
    program: Program, ifindex: int, mode: XdpMode, error: SyscallError
) -> _Refused | SyscallError:
    """Ask for the kernel's words; an error that is not the device's own stays as it is."""
    words = _driver_words(program, ifindex, mode)
    # A driver without offload answers EINVAL to XDP_SETUP_PROG_HW (veth, virtio_net).
    is_offload = mode is XdpMode.OFFLOAD
    if isinstance(error, InvalidArgumentError) and not is_offload:
        error.hint = words or str(error.strerror)
        return _Refused(error, error.hint)
    if words or is_offload or isinstance(error, NotSupportedError):
        words = words or str(error.strerror)
        return _Refused(mode_refusal(program, ifindex, mode, words, error=error), words)
    return error


def _busy(program: Program, ifindex: int, mode: XdpMode, error: HookBusyError) -> HookBusyError:
    """Say who holds the device, as far as we may know; else what the kernel says."""
    name = interfaces.name_of(ifindex) or f"ifindex {ifindex}"
    holder = xdp_holder(ifindex)
    if holder is None:
        error.hint = _driver_words(program, ifindex, mode)
        return error
    return HookBusyError(
        f"{name} runs another XDP program already: {holder}",
        holder=str(holder),
        hint="See who it is: bpfpin status. It was left as it is.",
    )


def _driver_words(program: Program, ifindex: int, mode: XdpMode) -> str:
    """Ask netlink for the reason; links carry no extended acknowledgement."""
    from bpfpin.attach.netlink import aside  # noqa: PLC0415 - 125 ms, for a refusal only

    return aside(lambda netlink: netlink.xdp_refusal(program.fd, ifindex, mode))


def _link_id(ifindex: int, program_id: int) -> int | None:
    """Return the link that runs the program there; `PermissionDeniedError` if links are hidden."""
    for link in links():
        if (link.type, link.ifindex, link.program_id) == (LinkType.XDP, ifindex, program_id):
            return link.id
    return None


# What a driver would say to an XDP program, found out without touching the device.
#
# The kernel asks a driver only by attaching, which a dry run must not do; and a refused
# BPF_LINK_UPDATE comes without words. What can be known beforehand:
#
# * whether the driver has native XDP at all: it says so itself (`netdev`, Linux 6.3).
# * what veth answers: a pair like it is made in a network namespace of our own, which ends with the
# question, and the program is attached there. `veth_xdp_set` of drivers/net/veth.c looks at the
# peer's MTU, and whether the device receives on as many queues as its peer sends on.


def foreseen_refusal(program: Program, ifindex: int, mode: XdpMode) -> str:
    """Return the words by which *program* would be refused in *mode*, "" if none are known.

    AUTO asks for native mode first. Only native mode can be foreseen; the device, which is in the
    current network namespace, is only looked at.
    """
    if mode not in (XdpMode.NATIVE, XdpMode.AUTO):
        return ""
    if devices.driver_name(interfaces.name_of(ifindex)) == VETH:
        from bpfpin.attach.netlink import on_a_copy_of_veth  # noqa: PLC0415 - 125 ms, for veth only

        return on_a_copy_of_veth(program.fd, ifindex)
    features = devices.xdp_features(ifindex)
    return "" if features is None or XdpFeature.BASIC in features else NO_NATIVE
