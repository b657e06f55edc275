"""Addresses, ports and prefixes as people write them; types given for maps that have none."""

from __future__ import annotations

import csv
import io
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin import AUTO, Format, Map, UsageError
from bpfpin.syscall.cpu import possible_cpus
from support.here import Here, decisions, run_here, veth
from support.objects import compiled

CPUS = possible_cpus()


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def forms(here: Here) -> Here:
    """Maps of all forms."""
    here.load(compiled("written_forms"))
    return here


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ports", "10.0.0.1", 443),
        ("hosts", 80, "10.0.0.2"),
        ("v6", "fe80::1", "10.0.0.9"),
        ("macs", "02:00:00:00:00:01", "02:00:00:00:00:02"),
        ("cpu_hosts", "10.0.0.1", ["10.0.0.2"] * CPUS),
        ("routes", "10.1.0.0/16", 7),
        ("numbers", "10.1.0.0/16", "10.0.0.2"),
        ("routes6", "2001:db8::/32", 7),
        ("devices", {"prefixlen": 32, "ifindex": 1}, 7),
    ],
)
def test_what_is_typed_is_what_is_shown(forms: Here, name: str, key: Any, value: Any) -> None:
    path = forms.set / name
    words = "prefixlen=32,ifindex=lo" if isinstance(key, dict) else key
    what = "values" if isinstance(value, list) else "value"
    typed = value[0] if isinstance(value, list) else value

    assert forms.ok("map", "set", path, words, typed)[what] == value
    assert forms.ok("map", "get", path, words) == {"schema": 1, "key": key, what: value}
    assert forms.ok("map", "dump", path)["entries"] == [{"key": key, what: value}]
    shown = run_here("map", "dump", path).stdout.splitlines()[1]
    if not isinstance(key, dict):
        assert shown.split()[0] == str(key)
        assert shown.split()[-1] == str(typed)
        rows = list(csv.DictReader(io.StringIO(run_here("map", "dump", path, "-o", "csv").stdout)))
        assert rows[0]["key"] == str(key)
        assert len(forms.ok("map", "dump", path, "--where", f"key={key}")["entries"]) == 1
    raw = forms.ok("map", "dump", path, "--raw")["entries"]
    assert (raw == [{"key": key, what: value}]) is (name == "devices")
    assert forms.ok("map", "delete", path, words)["deleted"] == 1


def test_a_prefix_is_taken_in_all_its_forms(forms: Here) -> None:
    path = forms.set / "routes"
    forms.ok("map", "set", path, "prefixlen=16,data=[10,1,0,0]", 1)
    forms.ok("map", "set", path, '{"prefixlen": 8, "data": [10, 0, 0, 0]}', 2)
    forms.ok("map", "set", path, "10.2.0.1", 3)
    forms.ok("map", "set", path, "hex:0000000000000000", 4)

    shown = {entry["key"]: entry["value"] for entry in forms.ok("map", "dump", path)["entries"]}
    assert shown == {"10.1.0.0/16": 1, "10.0.0.0/8": 2, "10.2.0.1/32": 3, "0.0.0.0/0": 4}
    long = forms.ok("map", "dump", path, "--where", "key.prefixlen>=16")["entries"]
    assert {entry["key"] for entry in long} == {"10.1.0.0/16", "10.2.0.1/32"}
    assert forms.ok("map", "get", path, "10.1.2.3")["value"] == 1
    error = forms.run("map", "set", path, "10.0.0.0/33", 1).json["error"]
    assert (error["exit"], "0 to 32" in error["message"]) == (2, True)


def test_prefixes_in_python(forms: Here) -> None:
    with Map.from_pin(forms.set / "routes") as routes:
        routes["10.0.0.0/8"] = 1
        routes[ipaddress.ip_network("10.1.0.0/16")] = 2
        routes[ipaddress.ip_interface("10.2.0.0/16")] = 3
        routes.update_batch([("10.3.0.0/16", 4)])

        assert routes[ipaddress.ip_address("10.1.2.3")] == 2
        assert "10.2.3.4" in routes
        assert routes[{"prefixlen": 32, "data": [10, 3, 0, 1]}] == 4
        assert {"prefixlen": 8, "data": (10, 0, 0, 0)} in list(routes)
        with pytest.raises(ValueError, match="a number from 0 to 32"):
            routes["10.0.0.0/33"] = 1
        with pytest.raises(ValueError, match="is not an IPv4 address"):
            routes["2001:db8::/32"] = 1
        assert routes.delete_batch(["10.3.0.0/16"]) == 1
    for formats in (AUTO, {"key": Format.PREFIX}, {"key": "prefix"}):
        with Map.from_pin(forms.set / "routes", formats=formats) as routes:
            assert sorted(routes) == ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"]
            assert routes["10.1.0.0/16"] == 2
            assert routes[{"prefixlen": 16, "data": [10, 2, 0, 0]}] == 3
    with Map.from_pin(forms.set / "routes6") as routes6:
        routes6[ipaddress.ip_network("2001:db8::/32")] = 1
        assert ipaddress.ip_address("2001:db8::7") in routes6


def test_short_names_and_names_with_dots(here: Here) -> None:
    here.load(compiled("legacy_typed"))

    short = here.ok("map", "show", f"{here.device}/xdp_stats_map")
    assert short["pins"] == [str(here.set / "xdp_stats_map")]
    for name in (f"{here.device}/.bss", here.set / ".bss", f"{here.device}/%2ebss"):
        assert here.ok("map", "show", name)["pins"] == [str(here.set / "%2ebss")]
        assert here.ok("map", "dump", name)["entries"] == [{"key": 0, "value": {"hits": 0}}]
    with veth() as other:
        words = "--dev", other, "--map", f"xdp_stats_map={here.device}/xdp_stats_map"
        shared = here.ok("load", compiled("legacy_typed"), *words)
        assert decisions(shared)["xdp_stats_map"] == "shared"
        here.ok("unload", other)
    assert here.run("map", "show", f"{here.device}/xdp_stats_mop").exit_code == 4
    assert here.run("map", "show", "nothing/xdp_stats_map").exit_code == 2
    assert here.run("map", "show", here.set / ".data").exit_code == 4


def test_a_map_without_types_reads_as_it_is_told_to(here: Here) -> None:
    here.load(compiled("legacy_typed"))
    path, rows = here.set / "xdp_stats_map", [{"rx_packets": 5, "rx_bytes": 60}] * CPUS
    typed = ("--type", "struct datarec")

    assert here.ok("map", "get", path, 2)["values"][0] == f"hex:{'00' * 16}"
    assert here.ok("map", "set", path, 2, "rx_packets=5", "rx_bytes=60", *typed)["values"] == rows
    assert here.ok("map", "get", path, 2, *typed) == {"schema": 1, "key": 2, "values": rows}
    dumped = here.ok("map", "dump", path, "--where", "rx_packets>=5", *typed)["entries"]
    assert dumped == [{"key": 2, "values": rows}]
    form = ("--format", "QQ")
    assert here.ok("map", "get", path, 2, *form)["values"] == [[5, 60]] * CPUS
    assert here.ok("map", "set", path, 3, "[1, 2]", *form, "--cpu", 0)["values"][0] == [1, 2]
    assert here.ok("map", "get", path, 2, *typed, "--raw")["values"] == rows
    shown = run_here("map", "watch", path, *typed, "--interval", "0.01", "--count", 1)
    assert shown.exit_code == 0
    with Map.from_pin(path, value_type="struct datarec") as held:
        assert held.total(2) == {"rx_packets": 5 * CPUS, "rx_bytes": 60 * CPUS}
    with pytest.raises(UsageError, match="no type 'struct datareck'"):
        Map.from_pin(path, value_type="struct datareck")


def test_a_type_that_does_not_fit_is_refused_with_those_that_do(here: Here) -> None:
    here.load(compiled("legacy_typed"))
    path = here.set / "xdp_stats_map"

    def refused(*words: str) -> Any:
        result = here.run("map", "dump", path, *words)
        assert result.exit_code == 2, result.stderr
        return result.json["error"]

    error = refused("--type", "struct three")
    assert "struct three takes 24 bytes, where map" in error["message"]
    assert error["hint"] == "structures of 16 bytes there: struct datarec (16 bytes)"
    assert "struct datarec (16 bytes)" in refused("--type", "struct nothing")["hint"]
    assert "takes 4 bytes, the map's 16" in refused("--format", "I")["message"]
    assert "QQ" in refused("--format", "zz")["hint"]
    assert "give one" in refused("--format", "QQ", "--type", "struct datarec")["message"]
