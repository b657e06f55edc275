"""Read the pinned counters of a program on a device, without the object file."""

import sys

from bpfpin import Map, XdpAction

device = sys.argv[1]

with Map.from_pin(f"/sys/fs/bpf/{device}/xdp_stats_map", read_only=True) as counters:
    for action, per_cpu in counters.items():
        total = counters.total(action)
        print(f"{XdpAction(action).name}: {total['rx_packets']} packets on {len(per_cpu)} CPUs")
