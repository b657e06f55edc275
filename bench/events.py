"""Compare reading events of a ring buffer with C and libbpf: from a full ring, and as a stream.

Needs root, gcc, libbpf-dev and a compiler for BPF. Prints how many events per second each side
takes out of a full ring of 4 MiB (the best of some rounds) and the ratio to C; then how many events
of a steady stream a reader receives and loses. Exits 1 if fewer than 300,000 events per second are
decoded to dicts, or if an event of the stream is lost.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from support.peers import compiled

import bpfpin
from bpfpin.apps.compile import compile_source
from bpfpin.loading.collection import Loaded

SOURCE = Path(__file__).parent / "c" / "events.bpf.c"
EVENTS = 120_000  # 32 bytes each with the header; the ring has room for 131,071
ROUNDS = 7
PROMISED_A_SECOND = 300_000
PACKET = bytes(64)

STREAM_S = 2.0
BURST, EVERY_S = 4_000, 0.01  # 400,000 per second


def main() -> int:
    """Measure and return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        built = compile_source(SOURCE, Path(directory) / "events.bpf.o").object_path
        peer = compiled("events", Path(directory))
        with bpfpin.load(bpfpin.read_object(built)) as loaded:
            return max(full_ring(loaded, peer), stream(loaded))


def full_ring(loaded: Loaded, peer: Path) -> int:
    """Measure how fast C and bpfpin empty a full ring."""
    loaded.maps[".bss"][0] = state(loaded, asked=EVENTS)
    ids = (loaded.maps["events"].id, loaded.programs["send"].id, ROUNDS)
    done = subprocess.run([peer, *map(str, ids)], check=True, capture_output=True, text=True)
    in_c = 1e9 / float(done.stdout)
    print(f"full ring, {EVENTS:,} events of 24 bytes")
    print(f"  C, libbpf          {in_c:12,.0f} events/s")
    with bpfpin.RingBuffer.of(loaded.maps["events"]) as ring:
        told("bpfpin, bytes", taken_a_second(loaded, ring), in_c)
    with bpfpin.RingBuffer.of(loaded.maps["events"], event_type="struct event") as ring:
        dicts = taken_a_second(loaded, ring)
        told("bpfpin, dicts", dicts, in_c, promise=f"  (promised: {PROMISED_A_SECOND:,})")
    return int(dicts < PROMISED_A_SECOND)


def taken_a_second(loaded: Loaded, ring: bpfpin.RingBuffer) -> float:
    """Return the best rate of some rounds."""
    best = 0.0
    for _ in range(ROUNDS):
        loaded.programs["send"].test_run(PACKET)
        start = time.perf_counter()
        taken = len(ring.consume())
        best = max(best, taken / (time.perf_counter() - start))
    return best


def told(name: str, rate: float, in_c: float, *, promise: str = "") -> None:
    """Print one line."""
    print(f"  {name:18} {rate:12,.0f} events/s   {in_c / rate:5.1f} x C's time{promise}")


def stream(loaded: Loaded) -> int:
    """Read events as dicts while a program sends bursts, and count what it could not send."""
    loaded.maps[".bss"][0] = state(loaded, asked=BURST, number=0, refused=0)
    with bpfpin.RingBuffer.of(loaded.maps["events"], event_type="struct event") as ring:
        sender = threading.Thread(target=send_bursts, args=(loaded, ring))
        start, cpu = time.perf_counter(), time.process_time()
        sender.start()
        numbers = [event["number"] for event in ring]
        taken_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        sender.join()
    after = state(loaded)
    lost = after["number"] + after["refused"] - len(numbers)
    in_order = numbers == list(range(len(numbers)))
    print(f"stream, {BURST:,} events every {EVERY_S * 1000:.0f} ms")
    print(f"  bpfpin, dicts      {len(numbers) / taken_s:12,.0f} events/s", end="")
    print(f"   {cpu_s / taken_s:5.0%} of a CPU, sending included   {lost} lost", end="")
    print("" if in_order else "   NOT IN ORDER")
    return int(lost > 0 or not in_order)


def send_bursts(loaded: Loaded, ring: bpfpin.RingBuffer) -> None:
    """Send for some seconds, wait until everything was read, and close the ring."""
    start = time.perf_counter()
    for number in range(int(STREAM_S / EVERY_S)):
        loaded.programs["send"].test_run(PACKET)
        time.sleep(max(0.0, start + (number + 1) * EVERY_S - time.perf_counter()))
    while ring.available_bytes:
        time.sleep(EVERY_S)
    time.sleep(EVERY_S)
    ring.close()


def state(loaded: Loaded, **changes: int) -> dict[str, int]:
    """Return the program's variables after applying *changes*."""
    found: dict[str, int] = {**loaded.maps[".bss"][0], **changes}
    return found


if __name__ == "__main__":
    sys.exit(main())
