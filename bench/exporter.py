"""Measure `bpfpin serve`: the time of a scrape, and its memory under many scrapes.

The benchmark loads the built-in counters on 50 devices and pins 100 hash maps besides, in its own
namespaces; with the maps of the 50 sets these are 200. It scrapes by HTTP: first 200 times in a
row, then 100 times a second for a minute while maps come and go. Maps and programs of the host are
included. Needs root. Exits 1 if a target is missed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from graph import inside_namespaces

from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS
from bpfpin.sets.load.deploy import deploy
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType

DEVICES = 50
MAPS = 100
IN_A_ROW = 200
PER_SECOND = 100
SECONDS = int(os.environ.get("BPFPIN_BENCH_SECONDS", "60"))
TARGET_S = 0.010
TARGET_MB = 40.0
GROWTH_MB = 1.0
PORT = 19436
TICK = os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Create the host, measure, and return the exit status."""
    if os.environ.get("BPFPIN_BENCH_INSIDE") != "1":
        return inside_namespaces(__file__)
    for command in (
        "mount -t bpf bpf /sys/fs/bpf",
        "mount -t tmpfs tmpfs /run",
        "mkdir /run/netns",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)
    make_host()
    command = [sys.executable, "-m", "bpfpin", "serve", "--listen", f"127.0.0.1:{PORT}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as exporter:
        assert exporter.stderr is not None
        print(exporter.stderr.readline().strip())
        try:
            return 0 if measure(exporter.pid) else 1
        finally:
            exporter.terminate()


def make_host() -> None:
    """Load the counters on all devices, and pin the other maps."""
    for number in range(DEVICES):
        name = f"dev{number}"
        words = f"ip link add {name} type veth peer name peer{number}"
        subprocess.run(words.split(), check=True)
        deploy("builtin:xdp_stats", device=name)
    for number in range(MAPS):
        with Map.create(MapSpec(f"flows{number}", MapType.HASH, 4, 8, 1024)) as made:
            made.pin(BPFFS / f"flows{number}")


def measure(pid: int) -> bool:
    """Print the figures of the exporter, and return whether all targets are met."""
    processes = [pid, *children(pid)]
    for _ in range(5):
        text = scrape()
    before, started_s = [cpu_s(process) for process in processes], time.perf_counter()
    times = []
    for _ in range(IN_A_ROW):
        start_s = time.perf_counter()
        text = scrape()
        times.append(time.perf_counter() - start_s)
    used_s = [
        (cpu_s(process) - first) / IN_A_ROW
        for process, first in zip(processes, before, strict=True)
    ]
    times.sort()
    series = sum(1 for line in text.splitlines() if not line.startswith("#"))
    print(
        f"{len(text)} bytes, {series} series, {count(text, 'bpfpin_maps')} maps,"
        f" {count(text, 'bpfpin_programs')} programs"
    )
    print(
        f"a scrape: fastest {times[0] * 1e3:.1f} ms, median {times[len(times) // 2] * 1e3:.1f} ms,"
        f" CPU time of helper {used_s[0] * 1e3:.1f} ms, of the scraped process"
        f" {used_s[1] * 1e3:.1f} ms"
        f" (in {time.perf_counter() - started_s:.1f} s; load {os.getloadavg()[0]:.1f})"
    )
    # What the first maps that come and go take once is no growth.
    scrape_while_maps_come_and_go(2)
    # Not by Pss, which also grows when another Python of the host ends.
    first_mb = [memory_mb(process, "Anonymous") for process in processes]
    missed = scrape_while_maps_come_and_go(SECONDS)
    last_mb = [memory_mb(process, "Anonymous") for process in processes]
    whole_mb = [memory_mb(process) for process in processes]
    files = [len(list(Path(f"/proc/{process}/fd").iterdir())) for process in processes]
    grown_mb = sum(last_mb) - sum(first_mb)
    print(
        f"memory (PSS): helper {whole_mb[0]:.1f} MB, scraped process {whole_mb[1]:.1f} MB; own"
        f" {last_mb[0] - first_mb[0]:+.2f} and {last_mb[1] - first_mb[1]:+.2f} MB in {SECONDS} s"
        f" of {PER_SECOND} scrapes a second, {missed} of them"
        f" late; open files {files}"
    )
    return (
        min(times[0], sum(used_s)) < TARGET_S and sum(whole_mb) < TARGET_MB and grown_mb < GROWTH_MB
    )


def scrape_while_maps_come_and_go(seconds: int) -> int:
    """Scrape at the pace; return how many scrapes began more than an interval late."""
    late, maps = 0, []
    start_s = time.monotonic()
    for number in range(seconds * PER_SECOND):
        due_s = start_s + number / PER_SECOND
        late += time.monotonic() > due_s + 1 / PER_SECOND
        time.sleep(max(0.0, due_s - time.monotonic()))
        maps.append(Map.create(MapSpec(f"short{number % 50}", MapType.HASH, 4, 8, 64)))
        if len(maps) > 20:
            maps.pop(0).close()
        assert "bpfpin_packets_total" in scrape()
    for bpf_map in maps:
        bpf_map.close()
    return late


def scrape() -> str:
    """Return the metrics."""
    data = bytearray()
    with socket.create_connection(("127.0.0.1", PORT)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        while part := connection.recv(1 << 18):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return body.decode()


def count(text: str, metric: str) -> int:
    """Return the sum of the values of a metric."""
    return sum(int(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\d+)$", text, re.M))


def children(pid: int) -> list[int]:
    """Return the pids of the children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def cpu_s(process: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mb(process: int, field: str = "Pss") -> float:
    """Return a field of the memory of a process; in Pss, shared pages count in parts."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(re.findall(rf"^{field}:\s+(\d+)", text, re.M)[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
