"""Show how long a function of a user program or library takes, as a histogram.

Usage: functions.py FILE:FUNCTION[,pid=N] [SECONDS], such as libc:malloc,pid=4711. Without SECONDS
it measures until Ctrl-C.
"""

import contextlib
import signal
import sys
import time
from pathlib import Path

import bpfpin

WIDTH = 40

if len(sys.argv) < 2:
    sys.exit(__doc__)
function = sys.argv[1]

with bpfpin.load(Path(__file__).with_suffix(".bpf.o")) as loaded:
    with (
        loaded.attach(targets={"enter": function, "leave": function}),
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"measuring {function}", flush=True)
        time.sleep(float(sys.argv[2])) if len(sys.argv) > 2 else signal.pause()
    histogram = loaded.maps["histogram"]
    counts = {bucket: histogram.total(bucket) for bucket in histogram}
    total_ns = loaded.maps["total_ns"].total(0)

used = [bucket for bucket, count in counts.items() if count]
if not used:
    sys.exit(f"nobody called {function}")
most, calls = max(counts.values()), sum(counts.values())
print(f"{'nanoseconds':>27} {'calls':>10}")
for bucket in range(used[0], used[-1] + 1):
    bar = "#" * round(WIDTH * counts[bucket] / most)
    print(f"{2**bucket:>12,} - {2 ** (bucket + 1) - 1:>12,} {counts[bucket]:>10,} {bar}".rstrip())
print(f"{calls:,} calls, {total_ns // calls:,} ns each")
