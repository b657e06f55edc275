"""XDP: programs at the driver's receive path of a network device.

A link holds them, or the device itself (`ip link set dev DEV xdp …`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from bpfpin.attach import devices
from bpfpin.attach import interface as interfaces
from bpfpin.attach.devices import DeviceRow, XdpFeature
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookTarget,
    NewAttachment,
    RememberedHook,
    RunningProgram,
)
from bpfpin.choices import choice_of
from bpfpin.errors import (
    BpfError,
    HookBusyError,
    NotSupportedError,
    PermissionDeniedError,
    ProgramChangedError,
    SyscallError,
    WrongHookError,
)
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.hooks import Hook, XdpMode
from bpfpin.objects.kernel.info import Extension, extensions_of, links, listed
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import AttachType, LinkType, XdpFlag

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
# Options of `ip link set`: `xdp off` would mean native mode wherever the driver has it, and leave a
# generic program attached.
_IP_WORDS = {
    XdpMode.NATIVE: "xdpdrv",
    XdpMode.GENERIC: "xdpgeneric",
    XdpMode.OFFLOAD: "xdpoffload",
}
# The kernel's words (dev_xdp_attach of net/core/dev.c), with EOPNOTSUPP.
NO_NATIVE = "Underlying driver does not support XDP in native mode"
VETH = "veth"


class XdpLink(Link):
    """A link at an XDP hook.

    Attributes:
        mode: The mode that the program runs in, never AUTO once it is attached.
        note: Why it is not native mode, in the kernel's words; else empty.
    """

    mode: XdpMode = XdpMode.AUTO
    note: str = ""


@dataclass(frozen=True, slots=True)
class XdpHolder:
    """The program that a device runs, and what holds it: a link, or netlink (*link_id* is None).

    Callers without CAP_SYS_ADMIN cannot see links: then `is_link_known` is False, *link_id* None.
    *extensions* are the programs that it calls, as libxdp's dispatcher does.
    """

    program_id: int
    program_name: str
    mode: XdpMode
    link_id: int | None
    is_link_known: bool = True
    extensions: tuple[Extension, ...] = ()

    def __str__(self) -> str:
        name = f" ({self.program_name})" if self.program_name else ""
        runs = f", which runs {listed(self.extensions)}," if self.extensions else ""
        return f"program id {self.program_id}{name}{runs} in {self.mode.value} mode, {self._held()}"

    def _held(self) -> str:
        if not self.is_link_known:
            return "and whether a link holds it is not visible to this user"
        by = f"link id {self.link_id}" if self.link_id else "netlink, without a link"
        return f"held by {by}"


def attach_xdp(
    program: Program, interface: str | int, *, mode: XdpMode | str = XdpMode.AUTO
) -> XdpLink:
    """Attach *program* to a device; closing the link detaches it, unless the link is pinned.

    Args:
        program: A program of type XDP.
        interface: Name or ifindex of a device of the current network namespace.
        mode: Where in the receive path it runs. AUTO takes native mode, and generic mode if the
            driver refuses native mode; `XdpLink.note` then has the driver's words.

    Returns:
        The link, with the mode taken.

    Raises:
        HookBusyError: The device runs another XDP program; `holder` says what holds it.
        NotSupportedError: The driver refuses the mode; the message has its reason.
        WrongHookError: The program is of another type.
        InterfaceNotFoundError: The device is not in this network namespace.
        PermissionDeniedError: CAP_NET_ADMIN or CAP_BPF is missing.

    Kernel: BPF_LINK_CREATE with BPF_XDP (Linux 5.9).
    """
    mode = choice_of(XdpMode, mode, what="XDP mode")
    if program.type not in Hook.XDP.traits.program_types:
        kind = getattr(program.type, "name", str(program.type)).lower()
        raise WrongHookError(f"program {program.name!r} is of type {kind}, not xdp")
    ifindex = interfaces.ifindex(interface)
    try:
        # Native is asked for by name: with no mode flag the kernel silently falls back to generic
        # mode (dev_xdp_mode() of net/core/dev.c), and nobody would learn that it is slower.
        return _attach(program, ifindex, XdpMode.NATIVE if mode is XdpMode.AUTO else mode)
    except _Refused as refused:
        # Only a refusal of the mode leads to generic mode. A busy device or a missing capability is
        # raised as it is: generic mode would meet the same.
        if mode is not XdpMode.AUTO:
            raise refused.error from None
        words = refused.words
    try:
        link = _attach(program, ifindex, XdpMode.GENERIC)
    except _Refused as refused:
        raise refused.error from None
    link.note = _generic_note(ifindex, words)
    return link


def _generic_note(ifindex: int, words: str) -> str:
    """Return the note on a device that refused native mode with the kernel's *words*."""
    name = interfaces.name_of(ifindex)
    return f"{name}: generic mode, because native mode was refused: {words}"


def _mode_refusal(
    program: Program, ifindex: int, mode: XdpMode, words: str, *, error: SyscallError | None = None
) -> NotSupportedError:
    """Return the exception for a device that refuses *program* in *mode* with *words*.

    *error* is the kernel's refusal; None if the refusal is foreseen.
    """
    name = interfaces.name_of(ifindex) or f"ifindex {ifindex}"
    hint = _with_buffers(_INSTEAD.get(mode, Fix(())), words)
    return NotSupportedError(
        f"{name} refuses program {program.name} in {mode.value} mode: {words}",
        feature=f"XDP in {mode.value} mode",
        command=error.command if error else "",
        errno=(error.errno or 0) if error else 0,
        hint=hint,
    )


def _with_buffers(fix: Fix, words: str) -> Fix:
    """Return *fix* and, if the device refused with *words* about its MTU, another way."""
    if "MTU" not in words:
        return fix
    return fix.joined('; or build it for frames in several buffers: SEC("xdp.frags")')


def xdp_holder(ifindex: int) -> XdpHolder | None:
    """Return the program of the device with this ifindex and what holds it, None without one."""
    from bpfpin.attach.netlink import aside  # noqa: PLC0415 - 125 ms, and few need it

    program_ids = aside(lambda netlink: netlink.xdp_program_ids(ifindex))
    # A device runs a program in one software mode at most: dev_xdp_attach() of net/core/dev.c
    # answers EEXIST if native mode is asked for beside generic mode, and the other way round.
    for mode, program_id in program_ids.items():
        name = ""
        with contextlib.suppress(BpfError), Program.from_id(program_id) as program:
            name = program.name
        try:
            link = _link_id(ifindex, program_id)
            extensions = extensions_of([program_id]).get(program_id, ())
        except PermissionDeniedError:
            return XdpHolder(program_id, name, mode, None, is_link_known=False)
        return XdpHolder(program_id, name, mode, link, extensions=extensions)
    return None


class _Refused(Exception):  # noqa: N818 - it never leaves this file
    """The device refused a mode: *error* is to be raised, *words* are the kernel's."""

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
        interfaces.ifindex(ifindex)  # the kernel answers EINVAL for a device that is gone, too
        raise _refused(program, ifindex, mode, error) from None
    link.mode = mode
    return link


def _refused(
    program: Program, ifindex: int, mode: XdpMode, error: SyscallError
) -> _Refused | SyscallError:
    """Add the kernel's words; an error with another cause than the device stays as it is."""
    words = devices.xdp_refusal(program.fd, ifindex, _FLAGS[mode])
    # A driver without offload answers EINVAL to XDP_SETUP_PROG_HW (veth, virtio_net).
    is_offload = mode is XdpMode.OFFLOAD
    if isinstance(error, InvalidArgumentError) and not is_offload:
        error.hint = words or str(error.strerror)
        return _Refused(error, error.hint)
    if words or is_offload or isinstance(error, NotSupportedError):
        words = words or str(error.strerror)
        return _Refused(_mode_refusal(program, ifindex, mode, words, error=error), words)
    return error


def _busy(program: Program, ifindex: int, mode: XdpMode, error: HookBusyError) -> HookBusyError:
    """Say what holds the device, as far as this user can see; else what the kernel says."""
    name = interfaces.name_of(ifindex) or f"ifindex {ifindex}"
    holder = xdp_holder(ifindex)
    if holder is None:
        error.hint = devices.xdp_refusal(program.fd, ifindex, _FLAGS[mode])
        return error
    return HookBusyError(
        f"{name} runs another XDP program already: {holder}",
        holder=str(holder),
        hint="See its owner: bpfpin status. It was left as it is.",
    )


def _link_id(ifindex: int, program_id: int) -> int | None:
    """Return the link that runs the program there; `PermissionDeniedError` if links are hidden."""
    for link in links():
        if (link.type, link.ifindex, link.program_id) == (LinkType.XDP, ifindex, program_id):
            return link.id
    return None


# Refusals foreseen, without touching the device: the kernel asks a driver only by attaching, which
# a dry run must not do; and a refused BPF_LINK_UPDATE comes without words.


def _foreseen_refusal(program: Program, ifindex: int, mode: XdpMode) -> str:
    """Return the words by which the driver would refuse *program* in *mode*, "" if none are known.

    AUTO asks for native mode first, and only that can be foreseen. A driver says itself whether it
    has native XDP (`netdev`, Linux 6.3). A veth is asked by a copy: a pair like it is made in a
    network namespace of our own, which ends with the question, and the program is attached there
    (`veth_xdp_set` of drivers/net/veth.c looks at the peer's MTU, and whether the device receives
    on as many queues as its peer sends on). The device is in the current network namespace.
    """
    if mode not in (XdpMode.NATIVE, XdpMode.AUTO):
        return ""
    if devices.driver_name(interfaces.name_of(ifindex)) == VETH:
        from bpfpin.attach.netlink import on_a_copy_of_veth  # noqa: PLC0415 - 125 ms, for veth only

        return on_a_copy_of_veth(program.fd, ifindex)
    features = devices.xdp_features(ifindex)
    return "" if features is None or XdpFeature.BASIC in features else NO_NATIVE


class NetlinkXdp(Closing):
    """The XDP program that the device with *ifindex* itself holds in *mode*, without a link.

    It was put there by netlink: `ip link set dev DEV xdp …`. It outlives every process, and is
    replaced by naming the program that is expected.
    """

    def __init__(self, ifindex: int, mode: XdpMode) -> None:
        self._ifindex = ifindex
        self._mode = mode

    def program_id(self) -> int:
        """Return the id of the program that is attached, 0 for none; `AttachError` if gone."""
        from bpfpin.attach.netlink import aside  # noqa: PLC0415 - 125 ms, for such a hook only

        return aside(lambda netlink: netlink.xdp_program_ids(self._ifindex)).get(self._mode, 0)

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run *program* from the next packet on, if *expected_old* runs now.

        Raises `ProgramChangedError` if another one runs, or if *expected_old* is not given;
        `HookBusyError` if a link holds the device by now, `AttachError` if it is gone.
        """
        if expected_old is None:
            # Without an expected program IFLA_XDP_FD would replace whatever runs, also that of
            # others.
            raise ProgramChangedError("a program held by netlink is replaced only if it is known")
        self._replace(program.fd, expected_old)

    def detach(self) -> None:
        """Detach the program that runs now, and no other."""
        # A program that is attached after this look is not detached: the kernel compares it with
        # IFLA_XDP_EXPECTED_FD and refuses (EEXIST).
        if running := self.program_id():
            with Program.from_id(running) as program:
                self._replace(-1, program)

    def close(self) -> None:
        """Do nothing: the device holds the program."""

    def _replace(self, program_fd: int, expected: Program) -> None:
        from bpfpin.attach.netlink import aside  # noqa: PLC0415 - 125 ms, for such a hook only

        aside(
            lambda netlink: netlink.replace_xdp(
                program_fd, self._ifindex, self._mode, expected_fd=expected.fd
            )
        )


class XdpCode(HookCode):
    """The code of the XDP hook."""

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        link = attach_xdp(program, target.ifindex, mode=options.mode)
        return NewAttachment(hook, link, link.note, mode=link.mode.value)

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Say that it will run in generic mode; raise if native mode was asked for."""
        words = _foreseen_refusal(program, target.ifindex, options.mode)
        if not words:
            return ""
        if options.mode is XdpMode.NATIVE:
            raise _mode_refusal(program, target.ifindex, options.mode, words)
        return _generic_note(target.ifindex, words)

    def refused_update(
        self,
        program: Program,
        target: HookTarget,
        mode: XdpMode,
        error: NotSupportedError | None = None,
    ) -> NotSupportedError | None:
        """Return the driver's refusal in its own words.

        The link commands have no words for a refusal (an MTU that is too large is ERANGE), so this
        asks for the reason in another way.
        """
        words = _foreseen_refusal(program, target.ifindex, mode)
        if not words:
            return None
        refused = _mode_refusal(program, target.ifindex, XdpMode.NATIVE, words, error=error)
        refused.fix = _with_buffers(Fix.of(Argument("mode", XdpMode.GENERIC)), words)
        return refused

    def reopen(self, hook: Hook, target: HookTarget, remembered: RememberedHook) -> NetlinkXdp:
        """Return the program that the device itself holds."""
        return NetlinkXdp(target.ifindex, XdpMode(remembered.mode))

    def holder(self, target: HookTarget) -> XdpHolder | None:
        """Return the program of the device, and what holds it."""
        return xdp_holder(target.ifindex)

    def detach_line(self, hook: Hook, device: str, remembered: RememberedHook) -> str:
        """Return the line of ip(8) that detaches the program, in its mode."""
        return f"{shell_line('ip link set dev', device)} {_IP_WORDS[XdpMode(remembered.mode)]} off"

    def running_on(self, devices: Iterable[DeviceRow]) -> Iterator[RunningProgram]:
        """Yield the XDP programs of the rows of the devices, without their links."""
        for device in devices:
            for mode, program_id in device.xdp.items():
                yield RunningProgram(Hook.XDP, program_id, device.ifindex, mode.value)


CODE = XdpCode()
