"""`load` of programs at functions of user programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.uprobes import find_place
from bpfpin.objects.maps.map import Map
from support.here import Here
from support.objects import compiled_with_headers
from support.user_program import Probed, probed, running
from support.wait import wait_until

ENTRY, RETURN, ARGUMENT, COOKIE = range(4)


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


@pytest.fixture
def process() -> Iterator[Probed]:
    with running() as process:
        yield process


def source(*defines: str) -> Path:
    return compiled_with_headers("attach/user_functions", defines=defines)


def load(here: Here, *words: object, step: int = 1) -> dict[str, object]:
    at = [f"--prog={word}" for word in words if not str(word).startswith("--")]
    options = [word for word in words if str(word).startswith("--")]
    made = source(f"STEP={step}")
    document: dict[str, object] = here.ok("load", made, "--name", "seen", *at, *options)
    return document


def counted(here: Here, kind: int) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def held(here: Here) -> dict[str, tuple[str, str, int]]:
    (shown,) = here.ok("status")["sets"]
    assert shown["state"] == "ok"
    return {hook["program"]: (hook["hook"], hook["held"], hook["link"]) for hook in shown["hooks"]}


def test_calls_and_returns_are_counted_over_a_reload(here: Here, process: Probed) -> None:
    words = (
        f"on_entry:uprobe={probed()}:probed_sum",
        f"on_return:uretprobe={probed()}:probed_local",
    )
    document = load(here, *words)
    process.call(3)
    argument = counted(here, ARGUMENT)
    first = held(here)
    again = load(here, *words)
    reloaded = load(here, *words, step=1000)
    process.call(2)
    (shown,) = here.ok("status")["sets"]
    nodes = {node["name"] for node in here.ok("graph")["nodes"]}
    own = [link["hook"] for link in here.ok("link", "list")["links"] if link["set"] == "seen"]

    assert document["result"] == "loaded"
    assert argument == 2  # the last return: of probed_local(1)
    assert (again["result"], reloaded["result"]) == ("unchanged", "reloaded")
    assert counted(here, ENTRY) == counted(here, RETURN) == 3 + 2 * 1000
    # The links stay, and each runs a stub.
    assert held(here) == first
    assert {name: it[:2] for name, it in first.items()} == {
        "on_entry": ("uprobe", "stub"),
        "on_return": ("uretprobe", "stub"),
    }
    assert {hook["device"] for hook in shown["hooks"]} == {
        f"user function {probed()}:probed_sum",
        f"user function {probed()}:probed_local",
    }
    assert {"on_entry", "on_return"} <= nodes
    # Before Linux 6.6 the kernel does not say what kind of perf event a link has.
    assert sorted(own) in (["uprobe", "uretprobe"], ["perf-event", "perf-event"])


def test_unload_detaches_and_leaves_nothing(here: Here, process: Probed) -> None:
    load(here, f"on_entry:uprobe={probed()}:probed_sum")
    with Map.from_pin(here.set / "seen") as seen:
        here.ok("unload", "seen")
        wait_until(lambda: not here.set.exists())
        process.call(5)

        assert int(seen[ENTRY]) == 0


def test_one_link_has_many_functions_and_keeps_them_over_a_reload(
    here: Here, process: Probed
) -> None:
    words = (
        f"on_many:uprobe-multi={probed()}:probed_*",
        f"on_many_returns:uretprobe-multi={probed()}:probed_s?m,pid={process.pid}",
    )
    made = source("STEP=1")
    first_try = here.run("load", made, "--name", "seen", "--prog", words[0])
    if first_try.exit_code == 8:
        assert "Linux 6.6" in first_try.stderr
        pytest.skip("the kernel has no links at many functions of a program")
    here.ok("unload", "seen")
    planned = load(here, *words, "--dry-run")
    document = load(here, *words)
    process.call(3)
    first = held(here)
    load(here, *words, step=1000)
    process.call(2)
    links = {link["hook"]: link for link in here.ok("link", "list")["links"]}

    assert counted(here, ENTRY) == 2 * (3 + 2 * 1000)
    assert counted(here, RETURN) == 3 + 2 * 1000
    assert held(here) == first
    assert {it[1] for it in first.values()} == {"stub"}
    assert links["uprobe-multi"]["target"]["functions"] == 2
    for shown in (planned, document):
        assert f"on_many: {probed()}:probed_* is 2 functions" in str(shown)


def test_a_session_sees_entry_and_return(here: Here, process: Probed) -> None:
    word = f"on_session:uprobe-session={probed()}:probed_sum"
    made = source("STEP=1")
    result = here.run("load", made, "--name", "seen", "--prog", word)
    if result.exit_code == 8:
        assert "Linux 6.13" in result.stderr
        pytest.skip("the kernel has no uprobe sessions")
    process.call(3)

    assert result.exit_code == 0, result.stderr
    assert counted(here, ENTRY) == 2 * 3


@pytest.mark.parametrize("form", ["offset", "distance", "link"])
def test_a_place_may_be_named_in_several_ways(
    here: Here, process: Probed, form: str, tmp_path: Path
) -> None:
    offset = find_place(probed(), "probed_sum", 0).offset
    (tmp_path / "other").symlink_to(probed())
    words = {
        "offset": f"{probed()}:{offset:#x}",
        "distance": f"{probed()}:probed_sum+0",
        "link": f"{tmp_path / 'other'}:probed_sum",
    }
    load(here, f"on_entry:uprobe={words[form]}")
    process.call(4)

    assert counted(here, ENTRY) == 4
    assert counted(here, ARGUMENT) == 1010


def test_a_process_is_probed_alone(here: Here, process: Probed) -> None:
    with running() as other:
        load(here, f"on_entry:uprobe={probed()}:probed_sum,pid={process.pid}")
        other.call(10)
        process.call(3)

    assert counted(here, ENTRY) == 3


def test_a_process_whose_file_was_replaced_is_still_probed(here: Here, tmp_path: Path) -> None:
    program = tmp_path / "replaced"
    shutil.copy(probed(), program)
    with running(program) as process:
        program.unlink()
        shutil.copy("/bin/true", program)
        load(here, f"on_entry:uprobe=replaced:probed_sum,pid={process.pid}")
        process.call(3)

    assert counted(here, ENTRY) == 3


def test_a_library_is_found_and_only_this_process_is_probed(here: Here) -> None:
    load(here, f"on_library:uprobe=libc:getppid,pid={os.getpid()}")
    for _ in range(7):
        os.getppid()

    assert counted(here, ENTRY) == 7


def test_the_section_names_the_library(here: Here) -> None:
    load(here, "on_library")
    os.getppid()

    assert counted(here, ENTRY) >= 1
    assert held(here)["on_library"][:2] == ("uprobe", "stub")


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        ("", (2, "names no target")),
        ("=probed_sum", (2, "is not a function of a file")),
        ("={probed}:probed_sun", (4, "probed_sum")),
        ("={probed}:0x10", (4, "has no code at 0x10")),
        ("={probed}x:probed_sum", (4, "near it: probed")),
        ("=libnothing.so.7:f", (4, "no library 'libnothing.so.7'")),
        ("=libc:reed", (4, "near it: read")),
        ("=libc:memcpy", (8, "is an IFUNC")),
        ("=libc:memcpy@GLIBC_9", (4, "memcpy@GLIBC_2")),
        ("={probed}:probed_sum,pid=4194305", (4, "there is no process 4194305")),
        ("-multi={probed}:nothing_*", (4, "matches 'nothing_*'")),
        ("=/etc/passwd:f", (5, "not an ELF file")),
    ],
)
@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["load", "dry-run"])
def test_a_wrong_target_is_refused(
    here: Here, target: str, refused: tuple[int, str], options: tuple[str, ...]
) -> None:
    exit_code, words = refused
    word = f"on_entry:uprobe{target.format(probed=probed())}"
    if not target:
        word += "="
    made = source("STEP=1")
    result = here.refused(exit_code, "load", made, "--name", "seen", "--prog", word, *options)

    assert words in result.stderr


def test_a_section_without_a_function_is_explained(here: Here) -> None:
    result = here.refused(2, "load", source("STEP=1"), "--name", "seen", "--prog", "on_entry")

    assert "on_entry:uprobe=/usr/bin/bash:readline" in result.stderr


def test_a_dry_run_changes_nothing(here: Here) -> None:
    words = (f"on_entry:uprobe={probed()}:probed_sum", "--dry-run")

    assert load(here, *words)["result"] == "planned"
    assert not here.set.exists()
