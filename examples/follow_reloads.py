"""Print a program's counters, and follow them through reloads. Arguments: DEV [SECONDS]."""

import sys

import bpfpin
from bpfpin import XdpAction

device = sys.argv[1]
seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 2

with bpfpin.follow(f"/sys/fs/bpf/{device}/xdp_stats_map", read_only=True) as live:
    for change in live.watch(interval_s=1.0, count=seconds):
        if change.reload:
            print(change.reload)
        packets = sum(cpu["rx_packets"] for cpu in change.entries[XdpAction.XDP_PASS])
        print(f"map {change.map_id}: {packets} packets passed", flush=True)
