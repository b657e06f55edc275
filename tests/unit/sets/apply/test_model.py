"""State files: what they ask for, and what is said of files that are wrong."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.errors import ObjectNotFoundError, UsageError
from bpfpin.migration.request import Migration, Rule
from bpfpin.sets.apply import keys, toml
from bpfpin.sets.apply.model import Contents, Place, parse_state, read_state

FILE = Path("/etc/bpfpin/edge.toml")
SHA = "0" * 64
WHOLE = f"""
schema = 1

[[set]]
object = "edge.bpf.o"
sha256 = "{SHA}"
device = ["eth0", "veth*", "driver=mlx5_core", "group=7"]
programs = "xdp_edge:xdp"
mode = "native"
optional = true
group = 100
migrate = {{ rules = {{ rx = "max" }}, dropped = "old" }}

[set.variables]
largest = 200

[set.maps.flows]
max_entries = 4096

[set.maps.blocked]
file = "blocked.txt"
value = 1

[set.maps.rules.slots.0]
entries = [{{ key = {{ src = "10.0.0.1" }}, value = "PASS" }}]

[set.maps.ports]
entries = {{ 80 = 1, "443" = 2 }}

[[set]]
object = "builtin:xdp_stats"
device = "eth1"
netns = "blue"

[set.maps.shared]
use = "eth0/flows"

[[metric]]
map = "flows"
name = "flows_total"
help = "flows"
scale = 0.5
labels = {{ source = "saddr" }}
"""


def test_a_whole_file_becomes_a_state() -> None:
    state = parse_state(WHOLE, FILE)
    first, second = state.sets

    assert (first.object, first.sha256) == ("/etc/bpfpin/edge.bpf.o", SHA)
    assert list(map(str, first.devices)) == ["eth0", "veth*", "driver=mlx5_core", "group=7"]
    assert first.options == {"mode": "native", "group": 100, "programs": ("xdp_edge:xdp",)}
    assert first.migrate == Migration(rules={"rx": Rule.MAX}, dropped=("old",))
    assert (first.variables, first.is_optional) == ({"largest": 200}, True)
    assert first.maps["flows"].max_entries == 4096
    assert first.maps["blocked"].contents == Contents(
        Place(FILE, 21), (), Path("/etc/bpfpin/blocked.txt"), "list", 1
    )
    assert first.maps["rules"].slots["0"].entries == (({"src": "10.0.0.1"}, "PASS"),)
    assert first.maps["ports"].contents is not None
    assert first.maps["ports"].contents.entries == (("80", 1), ("443", 2))
    assert (second.object, second.netns, second.place) == (
        "builtin:xdp_stats",
        "blue",
        Place(FILE, 30),
    )
    assert second.maps["shared"].use == "eth0/flows"
    (metric,) = state.metrics
    assert (metric.keys["name"], metric.place.line) == ("flows_total", 38)


WRONG = [
    ("[[set]]\nobject = 1", "2: set 1, object: it is a text, not 1"),
    (
        "[[set]]\nobject = 'a.o'\ndevise = 'x'",
        "3: set 1, devise: there is no such key; did you mean",
    ),
    ("[[set]]\ndevice = 'x'", "1: set 1: the key object is missing"),
    ("[[sett]]", "1: sett: there is no such key; did you mean set?"),
    (
        "[[set]]\nobject = 'a.o'\nmode = 'nativ'",
        "3: set 1, mode: there is no 'nativ'; did you mean",
    ),
    ("[[set]]\nobject = 'a.o'\nhook = 'tcx_ingress'", "3: set 1, hook: there is no 'tcx_ingress'"),
    ("[[set]]\nobject = 'a.o'\nstub = 'no'", "3: set 1, stub: it is true or false, not 'no'"),
    ("[[set]]\nobject = 'a.o'\nsha256 = 'xy'", "3: set 1, sha256: it is not 64 hexadecimal"),
    ("[[set]]\nobject = 'a.o'\ndevice = 'drivr=x'", "3: set 1, device: 'drivr=x' is no pattern"),
    ("[[set]]\nobject = 'a.o'\nname = ''", "3: set 1, name: it is empty"),
    (
        "[[set]]\nobject = 'a.o'\nname = 'n'\ndevice = ['a', 'b']",
        "3: set 1, name: it is for one set",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nmax_entries = 0",
        "4: set 1, maps.m.max_entries: 0 is not a number from 1",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nuse = 'a/b'\nmax_entries = 5",
        "4: set 1, maps.m.use: an existing map is used as it is: leave out max_entries",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nfile = 'x.csv'\nentries = {}",
        "4: set 1, maps.m.file: there is entries already",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nfile = 'x.txt'",
        "4: set 1, maps.m.file: a list has keys alone: give value",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nfile = 'x.csv'\nvalue = 1",
        "5: set 1, maps.m.value: a file of format csv has the value",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nfile = 'x.dat'",
        "4: set 1, maps.m.file: its name does not say its format",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nvalue = 1",
        "4: set 1, maps.m.value: it belongs to a file",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m.slots.0]",
        "3: set 1, maps.m.slots.0: it has neither entries nor a file",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.maps.m]\nentries = [{ key = 1 }]",
        "4: set 1, maps.m.entries: it is a table, or a list of tables with",
    ),
    ("schema = 2\nanything = 1", "1: schema: this bpfpin reads schema 1, not 2"),
    ("[[set]\nobject = 1", "1: it is not TOML"),
    ("[[set]]\nobject = ", "2: it is not TOML"),
    ("a = [\n", "2: it is not TOML"),
    (
        "[[metric]]\nmap = 'm'\nname = 'n'\nhelp = 'h'\nmax_series = 0",
        "5: metric 1, max_series: 0 is not a number",
    ),
    (
        "[[metric]]\nmap = 'm'\nname = 'n'\nhelp = 'h'\nscale = 0",
        "5: metric 1, scale: it is a number above 0, not 0",
    ),
    (
        "[[set]]\nobject = 'a.o'\n[set.migrate]\nrules = { a = 'summ' }",
        "4: set 1, migrate.rules: there is no 'summ'; did you mean sum?",
    ),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_wrong_file_is_named_with_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_state(text, FILE)

    assert raised.value.message.startswith(f"{FILE}:{said}")


NAMES = [*keys.FILE, *keys.SET, *keys.MAP, *keys.MIGRATION, *keys.METRIC, "key", "other"]
SCALARS = (
    st.booleans() | st.integers(-2, 5) | st.sampled_from(["", "a.csv", "xdp", "by-name", "x="])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)
TABLES = st.fixed_dictionaries(
    {"object": st.just("a.o")},
    optional={name: VALUES for name in (*keys.SET, "other") if name != "object"},
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3), st.lists(TABLES, max_size=2))
def test_any_document_is_a_state_or_is_refused(
    document: dict[str, Any], sets: list[dict[str, Any]]
) -> None:
    whole = {**document, **({"set": sets} if sets else {})}
    text = "\n".join(
        f"{toml.key_text(key)} = {toml.value_text(value)}" for key, value in whole.items()
    )
    with contextlib.suppress(UsageError):
        parse_state(text, FILE)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("[[set]]\nobject = 1\ncgroup = 2\n")
    (tmp_path / "a.toml").write_text("[[set]]\nmode = 'native'\n")
    with pytest.raises(UsageError) as raised:
        read_state([tmp_path])

    assert re.findall(r"(\w)\.toml:(\d)", raised.value.message) == [
        ("a", "1"),
        ("b", "2"),
        ("b", "3"),
    ]


def test_the_files_of_a_directory_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(["20-b.toml", "10-a.toml", ".hidden.toml", "notes.txt"]):
        (tmp_path / name).write_text(f"[[set]]\nobject = 'o{number}.o'\n")
    state = read_state([tmp_path, tmp_path / "10-a.toml"])

    assert [file.name for file in state.files] == ["10-a.toml", "20-b.toml"]
    assert [Path(wanted.object).name for wanted in state.sets] == ["o1.o", "o0.o"]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("device = 'e0'", "device = 'e0'", "same place, e0"),
        ("device = 'e0'\nname = 'n'", "cgroup = 'c'\nname = 'n'", "same name, n"),
        ("cgroup = 'c'", "cgroup = 'c'", "same place, c"),
        ("", "", "same place"),
    ],
)
def test_two_sets_at_one_place_are_refused(
    tmp_path: Path, first: str, second: str, said: str
) -> None:
    files = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for file, of_set in zip(files, (first, second), strict=True):
        file.write_text(f"[[set]]\nobject = 'o.o'\n{of_set}\n")
    with pytest.raises(UsageError, match=re.escape(said)) as raised:
        read_state(files)

    assert f"{files[1]}:1" in raised.value.message
    assert f"{files[0]}:1" in raised.value.message


def test_sets_with_names_or_in_other_namespaces_share_a_device_name() -> None:
    text = "".join(
        f"[[set]]\nobject = 'o.o'\ndevice = 'e0'\n{key}\n"
        for key in ("", "name = 'n'", "name = 'm'", "netns = 'blue'")
    )

    assert len(parse_state(text, FILE).sets) == 4


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError):
        read_state([tmp_path / "none.toml"])
    with pytest.raises(ObjectNotFoundError, match=r"no file \*\.toml"):
        read_state([tmp_path])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"# one\n\xff\n")
    with pytest.raises(UsageError, match=r"a\.toml:2: it is not UTF-8"):
        read_state([file])
