"""Names and indexes of the network devices of the current namespace.

They come from libc (ioctl and netlink): /sys/class/net shows the namespace in which /sys was
mounted, and so another one after setns(2).
"""

from __future__ import annotations

from bpfpin.choices import similar
from bpfpin.errors import InterfaceNotFoundError


def names() -> dict[int, str]:
    """Return the names of all devices of the current network namespace by ifindex."""
    import socket  # noqa: PLC0415  (few commands need it)

    return dict(socket.if_nameindex())


def ifindex(interface: str | int) -> int:
    """Return the ifindex of *interface*, a device's name or ifindex (if_nametoindex(3)).

    `InterfaceNotFoundError` lists the devices of the namespace, and those with a similar name.
    """
    import socket  # noqa: PLC0415  (few commands need it)

    if isinstance(interface, int):
        if name_of(interface):
            return interface
        raise _not_found(f"no network device with ifindex {interface}", "")
    try:
        return socket.if_nametoindex(interface)  # also by an alternative name (`ip link property`)
    # ValueError: a name with a NUL, which cannot be passed to libc.
    except (OSError, ValueError):
        raise _not_found(f"no network device {interface!r}", interface) from None


def name_of(index: int) -> str:
    """Return the name of the device with ifindex *index*, "" if there is none."""
    import socket  # noqa: PLC0415  (few commands need it)

    try:
        return socket.if_indextoname(index)
    # OverflowError: a number from a manifest or a user that is no C `unsigned int`.
    except (OSError, OverflowError):
        return ""


def _not_found(message: str, wanted: str) -> InterfaceNotFoundError:
    known = names().values()
    devices = ", ".join(known) or "none"
    near = similar(wanted, known)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return InterfaceNotFoundError(
        f"{message} in this network namespace; there are: {devices}",
        hint=f"{guess}A device of another namespace is reached with -n NAMESPACE.",
    )
