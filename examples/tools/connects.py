"""Show who opens TCP connections to where, and how long the answer takes, until Ctrl-C."""

import socket
from pathlib import Path

import bpfpin
from bpfpin import RingBuffer

with bpfpin.load(Path(__file__).with_suffix(".bpf.o")) as loaded, loaded.attach():
    print(f"{'PID':>8} {'COMMAND':<16} {'MS':>9} {'ANSWER':<7} TO", flush=True)
    try:
        for event in RingBuffer.of(loaded.maps["events"]):
            size = 16 if event["family"] == socket.AF_INET6 else 4
            address = socket.inet_ntop(event["family"], bytes(event["address"][:size]))
            answer = "yes" if event["is_established"] else "no"
            took = f"{event['duration_ns'] / 1e6:>9.3f}"
            where = f"{address} port {event['port']}"
            print(f"{event['pid']:>8} {event['comm']:<16} {took} {answer:<7} {where}", flush=True)
    except KeyboardInterrupt:
        pass
