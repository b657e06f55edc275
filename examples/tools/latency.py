"""Show how long a system call takes, as a histogram.

Usage: latency.py CALL [SECONDS]. Without SECONDS it measures until Ctrl-C.
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
call = sys.argv[1]
targets = {"enter": f"syscalls/sys_enter_{call}", "leave": f"syscalls/sys_exit_{call}"}

with bpfpin.load(Path(__file__).with_suffix(".bpf.o")) as loaded:
    with loaded.attach(targets=targets), contextlib.suppress(KeyboardInterrupt):
        print(f"measuring {call}(2)", flush=True)
        time.sleep(float(sys.argv[2])) if len(sys.argv) > 2 else signal.pause()
    histogram = loaded.maps["histogram"]
    counts = {bucket: histogram.total(bucket) for bucket in histogram}

used = [bucket for bucket, count in counts.items() if count]
if not used:
    sys.exit(f"nobody called {call}(2)")
most = max(counts.values())
print(f"{'nanoseconds':>27} {'calls':>10}")
for bucket in range(used[0], used[-1] + 1):
    bar = "#" * round(WIDTH * counts[bucket] / most)
    print(f"{2**bucket:>12,} - {2 ** (bucket + 1) - 1:>12,} {counts[bucket]:>10,} {bar}".rstrip())
