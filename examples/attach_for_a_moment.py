"""Count the packets that arrive in one second. Nothing is pinned: closing the link detaches."""

import sys
import time

import bpfpin
from bpfpin import XdpAction, XdpMode

device = sys.argv[1]
spec = bpfpin.read_object("builtin:xdp_stats")

with bpfpin.load(spec) as loaded:
    program = loaded.programs["xdp_stats"]
    with bpfpin.attach_xdp(program, device, mode=XdpMode.AUTO):
        time.sleep(1.0)
    total = loaded.maps["xdp_stats_map"].total(XdpAction.XDP_PASS)

print(f"{device}: {total['rx_packets']} packets, {total['rx_bytes']} bytes passed")
