"""Which device one must not cut: that of the default route, and that of one's own ssh session."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.attach import interface, routes
from bpfpin.attach.routes import Address
from bpfpin.errors import UsageError

PROC: Final = Path("/proc")
_VARIABLE = b"SSH_CONNECTION="
_MAPPED = "::ffff:"
_WORDS: Final = 4  # client address and port, then ours
_DEPTH_MAX: Final = 64  # ancestors of a process


@dataclass(frozen=True, slots=True)
class SshSession:
    """An ssh session as sshd tells it: who came, and to which address of ours."""

    client: str
    address: Address


def danger_of(device: str | int) -> str:
    """Return what cutting *device* (name or ifindex) would cut, in words; "" if nothing of ours.

    That is the default route, and the ssh session in which this process was started (`sudo` hides
    it, so the environment of every ancestor is asked). What a VLAN, bond or bridge carries is
    carried by the devices below it, too. Of the current network namespace.
    `InterfaceNotFoundError` if there is no such device.
    """
    carried = routes.stack_above(interface.ifindex(device))
    found = ["the default route"] if carried & routes.default_route_devices() else []
    for session in ssh_sessions():
        if carried & routes.devices_with_address(session.address):
            found.append(f"your ssh session from {session.client}")
    return " and ".join(found)


def require_way_back(
    what: str, devices: Iterable[str], *, confirm_s: float | None, is_forced: bool = False
) -> None:
    """Raise `UsageError` if *what* may cut one of *devices* and no way back was given."""
    if confirm_s is not None or is_forced:
        return
    for device in devices:
        if danger := danger_of(device):
            raise UsageError(
                f"{what} would cut {device}, which carries {danger}",
                hint="give a way back, which comes by itself unless you confirm: --confirm 30",
            )


def ssh_sessions(proc: Path = PROC) -> list[SshSession]:
    """Return the ssh sessions that this process and its ancestors say they are in."""
    found = (_session(text) for pid in _ancestors(proc) for text in _told(proc / str(pid)))
    return list(dict.fromkeys(session for session in found if session is not None))


def _ancestors(proc: Path) -> Iterator[int]:
    pid = os.getpid()
    for _ in range(_DEPTH_MAX):
        if pid <= 0:
            return
        yield pid
        try:
            # The name, in parentheses, may have anything in it, spaces and parentheses too.
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _told(process: Path) -> Iterator[str]:
    # The kernel shows the environment as it was at exec; ours may have changed since.
    if process.name == str(os.getpid()) and "SSH_CONNECTION" in os.environ:
        yield os.environ["SSH_CONNECTION"]
    with suppress(OSError):
        for variable in (process / "environ").read_bytes().split(b"\0"):
            if variable.startswith(_VARIABLE):
                yield os.fsdecode(variable.removeprefix(_VARIABLE))


def _session(text: str) -> SshSession | None:
    """Read `CLIENT PORT ADDRESS PORT` (sshd writes it); None for anything else."""
    words = text.split()
    if len(words) != _WORDS:
        return None
    with suppress(ValueError):
        address = words[2].partition("%")[0].removeprefix(_MAPPED)
        return SshSession(words[0], ipaddress.ip_address(address))
    return None
