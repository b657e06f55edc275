"""What a driver would say to an XDP program, found out without touching the device.

The kernel asks a driver only by attaching, which a dry run must not do; and a refused
BPF_LINK_UPDATE comes without words. What can be known beforehand:

* whether the driver has native XDP at all: it says so itself (`netdev`, Linux 6.3).
* what veth answers: a pair like it is made in a network namespace of our own, which ends with the
  question, and the program is attached there. `veth_xdp_set` of drivers/net/veth.c looks at the
  peer's MTU, and whether the device receives on as many queues as its peer sends on.
"""

from __future__ import annotations

from bpfpin.attach import driver
from bpfpin.attach import interface as interfaces
from bpfpin.attach.driver import XdpFeature
from bpfpin.objects.program import Program
from bpfpin.spec import XdpMode

# The kernel's words (dev_xdp_attach of net/core/dev.c), with EOPNOTSUPP.
NO_NATIVE = "Underlying driver does not support XDP in native mode"
VETH = "veth"


def foreseen_refusal(program: Program, ifindex: int, mode: XdpMode) -> str:
    """Return the words by which *program* would be refused in *mode*, "" if none are known.

    AUTO asks for native mode first. Only native mode can be foreseen; the device, which is in the
    current network namespace, is only looked at.
    """
    if mode not in (XdpMode.NATIVE, XdpMode.AUTO):
        return ""
    if driver.driver_name(interfaces.name_of(ifindex)) == VETH:
        from bpfpin.attach.netlink import on_a_copy_of_veth  # noqa: PLC0415 - 125 ms, for veth only

        return on_a_copy_of_veth(program.fd, ifindex)
    features = driver.xdp_features(ifindex)
    return "" if features is None or XdpFeature.BASIC in features else NO_NATIVE
