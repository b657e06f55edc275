"""Classic tc, as tc(8) does it: the qdisc clsact, and filters of kind bpf with direct action.

Spoken without pyroute2, which does not read a filter's program id.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from bpfpin.spec import Hook
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

_CLSACT = 0xFFFFFFF1  # TC_H_CLSACT of linux/pkt_sched.h; the qdisc `ingress` is there, too
_CLSACT_HANDLE = 0xFFFF0000
_PARENTS = {Hook.TC_INGRESS: 0xFFFFFFF2, Hook.TC_EGRESS: 0xFFFFFFF3}

_KIND, _OPTIONS, _CHAIN = 1, 2, 11  # TCA_* of linux/rtnetlink.h
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11  # TCA_BPF_* of linux/pkt_cls.h
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT

CLSACT = "clsact"
BPF = "bpf"


@dataclass(frozen=True, slots=True)
class FilterPlace:
    """Where a filter is: unique among the filters of a network namespace."""

    ifindex: int
    hook: Hook
    priority: int
    handle: int
    chain: int = 0  # ours are in the one where every packet begins


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as the kernel reports it; *program_id* is 0 where no eBPF program runs."""

    place: FilterPlace
    kind: str
    name: str
    program_id: int
    is_direct_action: bool


def qdiscs() -> dict[int, str]:
    """Return the qdisc that holds the tc hooks, `clsact` or `ingress`, of each device with one."""
    body = _MESSAGE.pack(0, 0, 0, 0, 0)
    found = {}
    for answer in request(RouteCommand.GETQDISC, body, flags=RequestFlag.DUMP, target="qdiscs"):
        _, ifindex, _, parent, _ = _MESSAGE.unpack_from(answer)
        if parent == _CLSACT:
            found[ifindex] = _text(attributes(answer[_MESSAGE.size :]).get(_KIND, b""))
    return found


def create_clsact(ifindex: int) -> None:
    """Make the qdisc clsact; `HookBusyError` if it or the qdisc ingress is there."""
    flags = RequestFlag.CREATE | RequestFlag.EXCLUSIVE
    request(RouteCommand.NEWQDISC, _clsact(ifindex), flags=flags, target=f"clsact of {ifindex}")


def delete_clsact(ifindex: int) -> None:
    """Remove the qdisc clsact with all filters in it."""
    request(RouteCommand.DELQDISC, _clsact(ifindex), target=f"clsact of {ifindex}")


def filters(ifindex: int, hook: Hook) -> list[Filter]:
    """Return the filters of a hook in the kernel's order; none where the device is gone."""
    body = _MESSAGE.pack(0, ifindex, 0, _PARENTS[hook], 0)
    target = f"filters of {ifindex}"
    answers = request(RouteCommand.GETTFILTER, body, flags=RequestFlag.DUMP, target=target)
    found = [_filter(answer, hook) for answer in answers]
    return [one for one in found if one.place.handle]  # without a handle: the priority's own line


def create_filter(place: FilterPlace, program_fd: int, name: str) -> None:
    """Add a filter; `HookBusyError` if one of that priority and handle is there."""
    flags = RequestFlag.CREATE | RequestFlag.EXCLUSIVE
    _set_filter(place, program_fd, name, flags)


def change_filter(place: FilterPlace, program_fd: int, name: str) -> None:
    """Let a filter run another program from the next packet on; `IdNotFoundError` if it is gone.

    Without NLM_F_CREATE, which `tc filter replace` sets: a filter that was removed stays removed.
    """
    _set_filter(place, program_fd, name, NO_FLAGS)


def delete_filter(place: FilterPlace) -> None:
    """Remove a filter; `IdNotFoundError` if it is gone."""
    request(RouteCommand.DELTFILTER, _head(place), target=_told(place))


def _set_filter(place: FilterPlace, program_fd: int, name: str, flags: RequestFlag) -> None:
    options = b"".join(
        (
            attribute(_BPF_FD, _U32.pack(program_fd)),
            attribute(_BPF_NAME, name.encode() + b"\0"),
            attribute(_BPF_FLAGS, _U32.pack(_DIRECT_ACTION)),
        )
    )
    body = _head(place) + attribute(_OPTIONS, options)
    request(RouteCommand.NEWTFILTER, body, flags=flags, target=_told(place))


def _head(place: FilterPlace) -> bytes:
    info = place.priority << 16 | _PROTOCOL
    message = _MESSAGE.pack(0, place.ifindex, place.handle, _PARENTS[place.hook], info)
    return message + attribute(_KIND, BPF.encode() + b"\0")


def _clsact(ifindex: int) -> bytes:
    message = _MESSAGE.pack(0, ifindex, _CLSACT_HANDLE, _CLSACT, 0)
    return message + attribute(_KIND, CLSACT.encode() + b"\0")


def _filter(answer: bytes, hook: Hook) -> Filter:
    _, ifindex, handle, _, info = _MESSAGE.unpack_from(answer)
    found = attributes(answer[_MESSAGE.size :])
    kind = _text(found.get(_KIND, b""))
    # The options of another kind have other meanings.
    options = attributes(found.get(_OPTIONS, b"")) if kind == BPF else {}
    return Filter(
        FilterPlace(ifindex, hook, info >> 16, handle, _number(found.get(_CHAIN))),
        kind,
        _text(options.get(_BPF_NAME, b"")),
        _number(options.get(_BPF_ID)),
        bool(_number(options.get(_BPF_FLAGS)) & _DIRECT_ACTION),
    )


def _number(payload: bytes | None) -> int:
    return int(_U32.unpack(payload)[0]) if payload else 0


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _told(place: FilterPlace) -> str:
    return f"filter {place.handle} of priority {place.priority} at {place.hook.value}"
