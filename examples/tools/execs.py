"""Show which programs are executed, and by whom, until Ctrl-C."""

from pathlib import Path

import bpfpin
from bpfpin import RingBuffer

with bpfpin.load(Path(__file__).with_suffix(".bpf.o")) as loaded, loaded.attach():
    print(f"{'PID':>8} {'UID':>6} {'PARENT':>8} {'STARTED BY':<16} PROGRAM", flush=True)
    try:
        for event in RingBuffer.of(loaded.maps["events"]):
            parent = f"{event['parent']:>8} {event['parent_comm']:<16}"
            print(f"{event['pid']:>8} {event['uid']:>6} {parent} {event['path']}", flush=True)
    except KeyboardInterrupt:
        pass
