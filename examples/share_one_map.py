"""Count received packets with XDP and sent packets with tc in one map, then unload both sets."""

import sys
import time

import bpfpin
from bpfpin import Hook, XdpAction

device = sys.argv[1]
COUNTERS = "xdp_stats_map"

with bpfpin.deploy("builtin:xdp_stats", device=device) as xdp:
    counters = xdp.maps[COUNTERS]
    with bpfpin.deploy(
        "builtin:tc_stats",
        device=device,
        hook=Hook.TC_EGRESS,
        name=f"{device}-tc",
        maps={COUNTERS: counters},
    ) as tc:
        print(f"{device}: xdp and tc-egress use map id {counters.id}, {tc.maps[COUNTERS].id}")
    time.sleep(1.0)
    print(f"{counters.total(XdpAction.XDP_PASS)['rx_packets']} packets in or out in a second")

for name in (f"{device}-tc", device):
    bpfpin.undeploy(name)
