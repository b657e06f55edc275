"""Whether a load would cut the device that carries the user's own way in, tried beforehand."""

from __future__ import annotations

import struct

from bpfpin.apps.danger import danger_of
from bpfpin.apps.load.loading import Loading
from bpfpin.errors import UsageError
from bpfpin.objects import collection
from bpfpin.spec import Hook
from bpfpin.uapi import XdpAction

SSH_PORT = 22
_ETHERNET = bytes(12) + b"\x08\x00"  # IPv4
_TCP = 6
_LOCALHOST = bytes((127, 0, 0, 1))


def require_way_back(loading: Loading) -> None:
    """Raise `UsageError` if an XDP program stops what the user's session is made of.

    Asked only on a device that carries the default route or the session, and where no way back was
    given. The program is run on a packet to the ssh port (BPF_PROG_TEST_RUN), as a copy with maps
    of its own: what is counted stays as it is.
    """
    if not loading.is_guarded or loading.confirm_s is not None or not loading.place.device:
        return
    for choice in loading.chosen:
        if choice.hook is not Hook.XDP:
            continue
        danger = danger_of(loading.place.device)
        verdict = _verdict(loading, choice.program.name) if danger else XdpAction.XDP_PASS
        if verdict != XdpAction.XDP_PASS:
            name = getattr(verdict, "name", str(verdict))
            raise UsageError(
                f"{choice.program.name} answers {name} to a packet of an ssh session: loading it"
                f" would cut {loading.place.device}, which carries {danger}",
                hint="give a way back, which comes by itself unless you confirm: --confirm 30;"
                " or mean it: --force",
            )


def _verdict(loading: Loading, program: str) -> XdpAction | int:
    with collection.load(
        loading.spec, programs=loading.programs, max_map_memory=loading.max_map_memory
    ) as copy:
        answer = copy.programs[program].test_run(_packet()).return_value
    return XdpAction(answer) if answer in XdpAction.__members__.values() else answer


def _packet() -> bytes:
    """Return an Ethernet frame with the first packet of an ssh session over IPv4."""
    tcp = struct.pack(">HHIIBBHHH", 49152, SSH_PORT, 1, 0, 5 << 4, 2, 65535, 0, 0)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, _TCP, 0)
    frame = _ETHERNET + header + _LOCALHOST + _LOCALHOST + tcp
    return frame.ljust(64, b"\0")
