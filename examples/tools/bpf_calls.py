"""Show who calls bpf(2), and with which command, until Ctrl-C."""

import errno
from pathlib import Path

import bpfpin
from bpfpin import RingBuffer
from bpfpin.uapi import Cmd

with bpfpin.load(Path(__file__).with_suffix(".bpf.o")) as loaded, loaded.attach():
    print(f"{'PID':>8} {'UID':>6} {'COMMAND':<16} {'US':>8} {'RESULT':<8} CALL", flush=True)
    try:
        for event in RingBuffer.of(loaded.maps["events"]):
            number, result = event["command"], event["result"]
            name = f"BPF_{Cmd(number).name}" if number in {*Cmd} else number
            text = result if result >= 0 else errno.errorcode.get(-result, result)
            who = f"{event['pid']:>8} {event['uid']:>6} {event['comm']:<16}"
            print(f"{who} {event['duration_ns'] // 1000:>8} {text!s:<8} {name}", flush=True)
    except KeyboardInterrupt:
        pass
