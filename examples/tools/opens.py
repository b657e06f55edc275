"""Show who opens which files, until Ctrl-C. Usage: opens.py [PID]."""

import errno
import sys
from pathlib import Path

import bpfpin
from bpfpin import RingBuffer

pid = int(sys.argv[1]) if len(sys.argv) > 1 else None

with bpfpin.load(Path(__file__).with_suffix(".bpf.o")) as loaded, loaded.attach():
    print(f"{'PID':>8} {'COMMAND':<16} {'RESULT':<8} PATH", flush=True)
    try:
        for event in RingBuffer.of(loaded.maps["events"]):
            if pid is None or event["pid"] == pid:
                result = event["result"]
                text = result if result >= 0 else errno.errorcode.get(-result, result)
                print(
                    f"{event['pid']:>8} {event['comm']:<16} {text!s:<8} {event['path']}", flush=True
                )
    except KeyboardInterrupt:
        pass
