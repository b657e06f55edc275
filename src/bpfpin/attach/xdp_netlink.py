"""XDP programs that a device itself holds, put there by netlink: `ip link set dev DEV xdp …`.

Such a hook has no link: it outlives every process, and is changed by naming the program expected.
"""

from __future__ import annotations

from bpfpin.errors import ProgramChangedError
from bpfpin.objects.programs.program import Program
from bpfpin.spec import XdpMode
from bpfpin.syscall.fd import Closing


class NetlinkXdp(Closing):
    """The XDP hook of the device with *ifindex* in *mode*, of the current network namespace."""

    def __init__(self, ifindex: int, mode: XdpMode) -> None:
        self._ifindex = ifindex
        self._mode = mode

    def program_id(self) -> int:
        """Return the id of the program that is attached, 0 for none; `AttachError` if gone."""
        from bpfpin.attach.netlink import aside  # noqa: PLC0415 - 125 ms, for such a hook only

        return aside(lambda netlink: netlink.xdp_program_ids(self._ifindex)).get(self._mode, 0)

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run *program* from the next packet on, if *expected_old* runs now.

        Raises `ProgramChangedError` if another one does, or if none is given to be expected;
        `HookBusyError` if a link holds the device by now, `AttachError` if it is gone.
        """
        if expected_old is None:
            raise ProgramChangedError("a program held by netlink is replaced only if it is known")
        self._replace(program.fd, expected_old)

    def detach(self) -> None:
        """Detach the program that runs now, and no other."""
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
