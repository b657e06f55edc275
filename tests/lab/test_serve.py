"""`bpfpin serve`: what Prometheus reads, over reloads, without capabilities, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bpfpin
from bpfpin.objects.kernel.info import map_ids
from bpfpin.objects.maps.fill import trie_entry_size
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType, XdpAction
from support.cli import run_cli
from support.here import Here, run_here, veth
from support.lab import TestLab
from support.nobody import run_cli_as_nobody
from support.shapes import COUNTERS, WIDER, version
from support.tools import need
from support.traffic import flow
from support.wait import HANG_S, wait_until

ARRAY = {"TYPE": "PERCPU_ARRAY", "ENTRIES": 5}
LINE = re.compile(r"^(?P<name>\w+)(?:{(?P<labels>.*)})? (?P<value>\S+)$")
RULES = """
[[metric]]
map = "flows"
name = "flow_hits"
help = "Hits by key."
type = "gauge"
labels = { flow = "key" }
max_series = 2
"""

MEMBERS = """
[[metric]]
map = "counters"
name = "counted_packets_total"
help = "Packets by key."
value = "packets"
labels = { slot = "key" }

[[metric]]
map = "counters"
name = "wrong"
help = "A member that is not there."
type = "gauge"
value = "none"

[[metric]]
map = "slots"
name = "seconds"
help = "Times by powers of two, in milliseconds."
type = "histogram"
scale = 0.001
"""


@pytest.fixture
def here(bpffs: Path, lab: TestLab) -> Here:
    """The device of a lab, and a pin root of its own."""
    return Here(bpffs, lab.device)


@contextmanager
def process(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `bpfpin serve WORDS…`; yield the process and the address that it serves."""
    command = [sys.executable, "-m", "bpfpin", "serve", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        line = started.stderr.readline()
        try:
            assert line.startswith("serving "), line + started.stderr.read()
            yield started, line.split()[1]
        finally:
            started.terminate()
            started.wait(HANG_S)


@contextmanager
def exporter(root: Path, *words: object) -> Iterator[str]:
    """Serve the metrics of a pin root at any port; yield the URL."""
    with process("--listen", "127.0.0.1:0", "--pin-root", root, *words) as (_, url):
        yield url


def scraped(url: str) -> str:
    """Return the metrics."""
    with urllib.request.urlopen(url, timeout=HANG_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text: str = answer.read().decode()
    return text


def samples(text: str, name: str, **labels: str) -> dict[str, float]:
    """Return the samples of a metric that have these labels, by all of their labels."""
    matches = [match for line in text.splitlines() if (match := LINE.match(line))]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return {
        match["labels"] or "": float(match["value"])
        for match in matches
        if match["name"] == name and all(word in (match["labels"] or "") for word in wanted)
    }


def value(text: str, name: str, **labels: str) -> float:
    """Return the only sample of a metric with these labels."""
    (number,) = samples(text, name, **labels).values()
    return number


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_counts_go_on_exactly_over_reloads_of_all_kinds(here: Here, lab: TestLab) -> None:
    """Kept, migrated, and begun anew: no counter goes back, none has a packet that was not sent."""
    here.load(version(**ARRAY))
    with exporter(here.root) as url:

        def packets() -> float:
            return sum(samples(scraped(url), "bpfpin_packets_total", set=here.device).values())

        lab.flood(100)
        wait_until(lambda: packets() >= 100)
        before = packets()
        assert value(scraped(url), "bpfpin_set_reloads_total", set=here.device) == 0

        here.load(version(**ARRAY, VARIABLES="int build = 2;"))
        lab.flood(10)
        kept = packets()
        here.load(version(**ARRAY, **WIDER), "--migrate")
        lab.flood(10)
        migrated = packets()
        here.load(version(**ARRAY), "--fresh", COUNTERS)
        lab.flood(10)
        anew = packets()
        text = scraped(url)

    assert kept - before >= 10
    assert migrated - kept >= 10
    assert anew - migrated >= 10
    # Other packets of the link (neighbour discovery) are few: no count came twice.
    assert anew < before + 100
    assert value(text, "bpfpin_set_reloads_total", set=here.device) == 3
    assert value(text, "bpfpin_set_generation", set=here.device) == 4


def test_scrapes_amid_reloads_see_the_same_series_which_only_grow(here: Here, lab: TestLab) -> None:
    """Also while a map is migrated, and while both generations exist."""
    here.load(version(**ARRAY))
    texts: list[str] = []
    is_over = threading.Event()
    with exporter(here.root) as url, flow(lab, packets=200_000, per_second=2000):

        def scrape() -> None:
            while not is_over.is_set():
                texts.append(scraped(url))

        thread = threading.Thread(target=scrape)
        thread.start()
        try:
            wait_until(lambda: len(texts) > 2)
            for number in range(3):
                here.load(version(**ARRAY, **WIDER, VARIABLES=f"int b = {number};"), "--migrate")
                here.load(version(**ARRAY), "--fresh", COUNTERS)
            seen = len(texts)
            wait_until(lambda: len(texts) > seen + 2)
        finally:
            is_over.set()
            thread.join()

    readings = [samples(text, "bpfpin_packets_total", device=here.device) for text in texts]
    assert [set(reading) for reading in readings if set(reading) != set(readings[0])] == []
    assert all(f'set="{here.device}"' in labels for labels in readings[0])
    for labels in readings[0]:
        numbers = [reading[labels] for reading in readings]
        assert numbers == sorted(numbers)
    runs = [set(samples(text, "bpfpin_program_runs_total", set=here.device)) for text in texts]
    assert [labels for labels in runs if len(labels) != 1] == []


def test_the_host_is_described_and_the_scraped_process_has_no_capability(
    here: Here, lab: TestLab
) -> None:
    spec = MapSpec("flows", MapType.HASH, 4, 8, max_entries=64)
    rules = here.root.parent / "rules.toml"
    rules.write_text(RULES)
    here.load(version(**ARRAY))
    prefixes = MapSpec("prefixes", MapType.LPM_TRIE, 8, 4, 99, map_flags=MapFlag.NO_PREALLOC)
    with (
        Map.create(spec) as flows,
        Map.create(prefixes) as trie,
        process("--listen", "127.0.0.1:0", "--pin-root", here.root, "--rules", rules) as (
            started,
            url,
        ),
    ):
        for key in range(3):
            flows[key.to_bytes(4, "little")] = (key + 7).to_bytes(8, "little")
        for length in (8, 16):
            trie[length.to_bytes(4, "little") + bytes(4)] = bytes(4)
        lab.flood(5)
        text = scraped(url)
        status = Path(f"/proc/{child_of(started.pid)}/status").read_text()

        # Programs ran while statistics were on: since the first scrape.
        lab.flood(5)
        again = scraped(url)
        assert value(again, "bpfpin_program_runs_total", set=here.device) >= 5
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("metrics", "other"), timeout=HANG_S)

    assert re.search(r"^CapEff:\t0+$", status, re.M)
    assert re.search(r"^CapPrm:\t0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    assert re.search(r"^Seccomp:\t2$", status, re.M)
    assert "\nUid:\t0" not in status
    assert value(text, "bpfpin_program_attached", set=here.device, hook="xdp") == 1
    assert value(text, "bpfpin_set_state", set=here.device, state="ok") == 1
    assert value(text, "bpfpin_map_max_entries", set=here.device, map=COUNTERS) == 5
    assert sum(samples(text, "bpfpin_problems").values()) == 0
    assert sorted(samples(text, "flow_hits").values()) in ([7, 8], [7, 9], [8, 9])
    assert value(text, "bpfpin_dropped_series", metric="flow_hits") == 1
    if entries := samples(text, "bpfpin_map_entries", map="flows"):  # Linux 6.6
        assert sum(entries.values()) >= 3
    if trie_entry_size(8, 4):
        assert sum(samples(text, "bpfpin_map_entries", map="prefixes").values()) >= 2
    assert not re.search(r"\bid=", text)


def test_promtool_finds_nothing_wrong(here: Here, lab: TestLab) -> None:
    need("promtool")
    rules = here.root.parent / "rules.toml"
    rules.write_text(MEMBERS.replace('"none"', '"bytes"'))
    here.load(version())
    lab.flood(5)
    with exporter(here.root, "--rules", rules) as url:
        text = scraped(url)
    here.load(version(**ARRAY), "--fresh", COUNTERS)
    file = run_here("stats", here.device, "--pin-root", here.root, "-o", "prom")
    for metrics in (text, file.stdout):
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=metrics,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_rules_read_members_and_histograms(here: Here, lab: TestLab) -> None:
    rules = here.root.parent / "rules.toml"
    rules.write_text(MEMBERS)
    here.load(version())
    lab.flood(5)
    slots = MapSpec("slots", MapType.PERCPU_ARRAY, 4, 8, max_entries=4)
    with (
        Map.create(slots) as histogram,
        process("--listen", "127.0.0.1:0", "--pin-root", here.root, "--rules", rules) as (
            started,
            url,
        ),
    ):
        for slot, count in ((0, 1), (2, 3)):
            histogram.update(slot, count.to_bytes(8, "little"), all_cpus=True)
        text = scraped(url)
        started.terminate()
        assert started.stderr is not None
        log = started.stderr.read()

    assert value(text, "counted_packets_total", set=here.device, map=COUNTERS, slot="0") >= 5
    cpus = value(text, "seconds_bucket", le="0.001")
    assert value(text, "seconds_bucket", le="0.007") == 4 * cpus
    assert value(text, "seconds_bucket", le="+Inf") == value(text, "seconds_count") == 4 * cpus
    assert samples(text, "wrong") == {}
    assert "metric wrong: there is no member 'none': there are packets, bytes" in log
    assert value(text, "bpfpin_rule_failed", metric="wrong") == 1
    assert value(text, "bpfpin_rule_failed", metric="counted_packets_total") == 0


def test_counters_that_others_loaded_have_their_device_and_no_set(bpffs: Path) -> None:
    with (
        veth() as device,
        bpfpin.load("builtin:xdp_stats") as loaded,
        bpfpin.attach_xdp(loaded.programs["xdp_stats"], device),
        exporter(bpffs) as url,
    ):
        text = scraped(url)

    counters = samples(text, "bpfpin_packets_total", device=device, map="xdp_stats_map")
    assert len(counters) == len(XdpAction)
    assert not any("set=" in labels for labels in counters)


def test_nothing_is_kept_alive_between_scrapes(here: Here) -> None:
    here.load(version(**ARRAY))
    with Map.from_pin(here.set / COUNTERS) as counters:
        map_id = counters.id
    with exporter(here.root) as url:
        assert samples(scraped(url), "bpfpin_packets_total", set=here.device)
        here.ok("unload", here.device)

        wait_until(lambda: map_id not in set(map_ids()))
        wait_until(lambda: not samples(scraped(url), "bpfpin_packets_total", set=here.device))


def test_two_services_share_the_work_over_a_socket(here: Here, tmp_path: Path) -> None:
    here.load(version(**ARRAY))
    path = tmp_path / "fds"
    with (
        process("--open-fds", path, "--pin-root", here.root),
        process("--fds-from", path, "--listen", "127.0.0.1:0") as (_, url),
    ):
        assert path.stat().st_mode & 0o777 == 0o600
        assert samples(scraped(url), "bpfpin_packets_total", set=here.device)
        assert samples(scraped(url), "bpfpin_packets_total", set=here.device)


def test_a_scraped_process_goes_on_when_its_helper_comes_back(here: Here, tmp_path: Path) -> None:
    path = tmp_path / "fds"
    words = ("--open-fds", path, "--pin-root", here.root)
    with (
        process(*words) as (helper, _),
        process("--fds-from", path, "--listen", "127.0.0.1:0") as (_, url),
    ):
        scraped(url)
        helper.terminate()
        assert helper.wait(HANG_S) == 0
        with pytest.raises(urllib.error.HTTPError, match="503"):
            scraped(url)
        with process(*words):
            assert "bpfpin_build_info" in scraped(url)


def test_a_signal_ends_both_processes_with_status_0(bpffs: Path) -> None:
    with process("--listen", "127.0.0.1:0", "--pin-root", bpffs) as (started, _):
        child = child_of(started.pid)
        started.send_signal(signal.SIGTERM)

        assert started.wait(HANG_S) == 0
        assert not Path(f"/proc/{child}").exists()


def test_without_its_helper_the_scraped_process_ends(bpffs: Path) -> None:
    with process("--listen", "127.0.0.1:0", "--pin-root", bpffs) as (started, url):
        scraped(url)
        child = child_of(started.pid)
        started.kill()
        started.wait(HANG_S)

        wait_until(lambda: not Path(f"/proc/{child}").exists())


def test_the_helper_ends_with_status_1_if_the_scraped_process_dies(bpffs: Path) -> None:
    with process("--listen", "127.0.0.1:0", "--pin-root", bpffs) as (started, url):
        scraped(url)
        os.kill(child_of(started.pid), signal.SIGKILL)

        assert started.wait(HANG_S) == 1


def test_a_socket_of_systemd_is_used(bpffs: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_FDS'] = '1';"
            "os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.execv(sys.executable, [sys.executable, '-m', 'bpfpin', *sys.argv[2:]])"
        )
        command = [sys.executable, "-c", script, str(listener.fileno()), "serve"]
        with subprocess.Popen(
            [*command, "--pin-root", str(bpffs)],
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        ) as started:
            assert started.stderr is not None
            line = started.stderr.readline()
            try:
                assert f":{listener.getsockname()[1]}/metrics" in line
                assert "bpfpin_build_info" in scraped(line.split()[1])
            finally:
                started.terminate()


def test_what_is_wrong_is_told_before_anything_starts(bpffs: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = run_cli("serve", "--listen", f"127.0.0.1:{port}", "--pin-root", bpffs)
    wrong = tmp_path / "rules.toml"
    wrong.write_text("[[metric]]\nmpa = 1\n")
    rules = run_cli("serve", "--rules", wrong)
    missing = run_cli("serve", "--rules", tmp_path / "none.toml")
    both = run_cli("serve", "--open-fds", "/x", "--fds-from", "/y")
    nobody = run_cli("serve", "--fds-from", tmp_path / "none")
    stranger = run_cli("serve", "--listen", "127.0.0.1:0", "--user", "no-such-user")
    ordinary = run_cli_as_nobody("serve")

    assert (busy.exit_code, f"port {port}" in busy.stderr) == (7, True)
    assert rules.exit_code == 2
    assert "mpa: there is no such key; did you mean map?" in rules.stderr
    assert missing.exit_code == 4
    assert both.exit_code == 2
    assert nobody.exit_code == 4
    assert (stranger.exit_code, "no user 'no-such-user'" in stranger.stderr) == (2, True)
    assert (ordinary.exit_code, "CAP_SYS_ADMIN" in ordinary.stderr) == (3, True)


def test_stats_write_a_file_for_the_textfile_collector(here: Here, lab: TestLab) -> None:
    here.load(version(**ARRAY))
    lab.flood(5)
    file = here.root.parent / "bpfpin.prom"
    words = ("stats", here.device, "--pin-root", here.root, "-o", "prom")
    shown = run_here(*words)
    assert run_here(*words, "--write", file).exit_code == 0
    pin = run_here("stats", here.set / COUNTERS, "-o", "prom")
    wrong = run_here(*words, "--count", 2)
    without = run_here("stats", here.device, "--pin-root", here.root, "--write", file)
    nowhere = run_here(*words, "--write", here.root.parent / "none" / "bpfpin.prom")

    assert nowhere.exit_code == 4
    assert "none" in nowhere.stderr
    assert "Errno" not in nowhere.stderr
    assert shown.exit_code == 0, shown.stderr
    packets = samples(shown.stdout, "bpfpin_packets_total", set=here.device, device=here.device)
    assert sum(packets.values()) >= 5
    assert set(packets) == set(samples(pin.stdout, "bpfpin_packets_total"))
    assert set(samples(file.read_text(), "bpfpin_packets_total")) == set(packets)
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir() if "prom" in path.name] == [file.name]
    assert (wrong.exit_code, without.exit_code) == (2, 2)
    with exporter(here.root) as url:
        assert set(samples(scraped(url), "bpfpin_packets_total", set=here.device)) == set(packets)
