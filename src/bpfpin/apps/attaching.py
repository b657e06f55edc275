"""Attach where a link may just be on its way out."""

from __future__ import annotations

import time
from typing import Final

from bpfpin.attach.xdp import XdpLink, attach_xdp, xdp_holder
from bpfpin.errors import HookBusyError
from bpfpin.objects.program import Program
from bpfpin.spec import XdpMode

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.02


def attach_when_free(program: Program, ifindex: int, *, mode: XdpMode) -> XdpLink:
    """Attach *program*, waiting a moment for a link that nobody holds any more.

    The kernel frees a link some time after its last pin or descriptor went, that of a killed
    command for one. A link that somebody holds is refused at once, as `attach_xdp` does.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return attach_xdp(program, ifindex, mode=mode)
        except HookBusyError as error:
            if time.monotonic() >= deadline or _is_held(ifindex):
                error.hint += " To put yours in its place: --take-over"
                raise
            time.sleep(_PAUSE_S)


def _is_held(ifindex: int) -> bool:
    """Whether a link that can be opened holds the hook; one that is being freed cannot be."""
    holder = xdp_holder(ifindex)
    return holder is not None and holder.link_id is not None
