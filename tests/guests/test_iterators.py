"""Iterators: made, read as text and as records, in a set, over reloads."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.iterators import IterLink, attach_iter
from bpfpin.errors import PermissionDeniedError, TargetNotFoundError, UsageError
from bpfpin.objects.load.collection import Loaded, load
from bpfpin.objects.maps.map import Map
from bpfpin.uapi import LinkType
from support.crash import Fault, Injection, faulted, points
from support.here import Here
from support.hooks import new_cgroup
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

pytestmark = pytest.mark.lab

KILLS = 4  # moments of a reload, spread over it
ALL = ("tasks", "elements", "cgroups")
SIZE = 300


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """The iterators of tests/objects; the test is skipped where the kernel refuses the type."""
    need_iterators()
    with load(compiled("iterators"), programs=ALL) as made:
        yield made


def need_iterators() -> None:
    try:
        load(compiled("iterators"), programs=ALL).close()
    except PermissionDeniedError as error:
        if os.environ.get("BPFPIN_GUEST"):  # a stock kernel takes them all from root
            raise
        pytest.skip(f"{error}")


def numbers(text: str) -> set[tuple[int, ...]]:
    return {tuple(map(int, line.split()[1:])) for line in text.splitlines()}


def test_text_of_tasks_all_or_of_a_process_or_a_thread(loaded: Loaded) -> None:
    pid, waits = os.getpid(), threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    tasks = loaded.programs["tasks"]
    try:
        with (
            attach_iter(tasks) as everything,
            attach_iter(tasks, pid=pid) as process,
            attach_iter(tasks, tid=thread.native_id) as single,
        ):
            texts = [link.read() for link in (everything, process, single)]
            again = process.read()
    finally:
        waits.set()
        thread.join()
    threads = {(pid, pid), (pid, thread.native_id)}

    assert numbers(texts[0]) >= {(1, 1), *threads}
    assert threads <= numbers(texts[1]) == numbers(again)
    assert {number for number, _ in numbers(texts[1])} == {pid}
    assert numbers(texts[2]) == {(pid, thread.native_id)}


def test_records_of_a_map_by_name_and_by_format(loaded: Loaded) -> None:
    counts = loaded.maps["counts"]
    counts.update_batch({key: key * key for key in range(SIZE)})
    with attach_iter(loaded.programs["elements"], map=counts) as link:
        records = list(link.records("struct record"))
        tuples = list(link.records(value_format="<I12sQ"))
        size = len(link.read_bytes())
        with pytest.raises(UsageError, match="no type 'struct recrd'") as unknown:
            link.records("struct recrd")
        with pytest.raises(UsageError, match="4 bytes after the last whole record"):
            list(link.records(value_format="<I12sQI"))

    assert records[7] == {"key": 7, "word": "first", "value": 49}
    assert [each["value"] for each in records] == [key * key for key in range(SIZE)]
    assert tuples[7] == (7, b"first".ljust(12, b"\0"), 49)
    assert size == SIZE * 24
    assert "struct record (24 bytes)" in unknown.value.hint


def test_cgroups_from_one_on(loaded: Loaded, tmp_path: Path) -> None:
    with new_cgroup(tmp_path / "cgroups") as folder:
        below = folder / "below"
        below.mkdir()
        ids = [path.stat().st_ino for path in (folder, below)]
        with attach_iter(loaded.programs["cgroups"], cgroup=folder) as link:
            some = link.read()
        with attach_iter(loaded.programs["cgroups"]) as link:
            everything = link.read()
        below.rmdir()

    assert some.splitlines() == [f"first {number}" for number in ids]
    assert set(some.splitlines()) < set(everything.splitlines())


def test_wrong_parameters_are_refused_by_name(loaded: Loaded) -> None:
    programs, counts = loaded.programs, loaded.maps["counts"]
    with pytest.raises(UsageError, match="goes over task, which takes no map"):
        attach_iter(programs["tasks"], map=counts)
    with pytest.raises(UsageError, match="none was named") as unnamed:
        attach_iter(programs["elements"])
    with pytest.raises(UsageError, match="exclude each other"):
        attach_iter(programs["tasks"], pid=1, tid=1)
    with pytest.raises(TargetNotFoundError, match="no process or thread 2147483647"):
        attach_iter(programs["tasks"], pid=2147483647)
    with pytest.raises(UsageError, match="loaded for the iterator task, not cgroup"):
        loaded.attach(["tasks"], targets={"tasks": "cgroup"})

    assert "bpf_map_elem,map=NAME" in unnamed.value.hint


def test_all_programs_of_an_object_and_a_pin_that_is_read_as_a_file(
    loaded: Loaded, bpffs: Path
) -> None:
    targets = {"elements": "bpf_map_elem,map=counts", "tasks": f"task,pid={os.getpid()}"}
    with loaded.attach(targets=targets) as attached:
        (tasks,) = attached["tasks"]
        assert isinstance(tasks, IterLink)
        assert tasks.info.type == LinkType.ITER
        tasks.pin(bpffs / "tasks")
        by_cat = subprocess.run(
            ["cat", bpffs / "tasks"], capture_output=True, text=True, check=True
        )
        text = tasks.read()

    assert numbers(by_cat.stdout) == numbers(text) != set()
    with IterLink.from_pin(bpffs / "tasks") as link:
        assert link.read() == text


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    need_iterators()
    return Here(bpffs, "seen")


def test_a_set_is_read_reloaded_recovered_and_unloaded(here: Here, tmp_path: Path) -> None:
    need("strace")
    name = ["--name", "seen"]
    words = [
        f"--prog=tasks:iter=task,pid={os.getpid()}",
        "--prog=elements:iter=bpf_map_elem,map=counts",
    ]
    second = compiled("iterators", defines=('WORD="second"',))
    planned = here.ok("load", compiled("iterators"), *name, *words, "--dry-run")
    here.ok("load", compiled("iterators"), *name, *words)
    with Map.from_pin(here.set / "counts") as counts:
        counts[1] = 10
    before = {hook["program"]: hook["link"] for hook in here.ok("status")["sets"][0]["hooks"]}
    first = here.ok("link", "read", "seen/tasks")
    elements = here.ok("link", "read", "seen/elements", "--type", "struct record")
    reloaded = here.ok("load", second, *name, *words)
    status = here.ok("status")["sets"][0]
    after = {hook["program"]: hook["link"] for hook in status["hooks"]}
    plain = here.run("link", "read", "seen/iter~tasks")
    fresh = here.ok("load", second, *name, *words, "--fresh", "counts")
    emptied = here.ok("link", "read", "seen/elements", "--format", "<I12sQ")["records"]
    shown = here.ok("link", "show", "seen/elements")

    assert planned["result"] == "planned"
    assert {line.split()[0] for line in first["text"].splitlines()} == {"first"}
    assert elements["records"][1] == {"key": 1, "word": "first", "value": 10}
    assert (reloaded["result"], status["state"]) == ("reloaded", "ok")
    assert {hook["device"] for hook in status["hooks"]} == {
        f"iterator task,pid={os.getpid()}",
        "iterator bpf_map_elem,map=counts",
    }
    # In place: the map was kept, so both links stay.
    assert before == after
    assert "second" in plain.json["text"]
    # Another map under that name: its iterator needs a new link.
    assert fresh["result"] == "reloaded"
    assert emptied[1] == [1, "hex:7365636f6e64000000000000", 0]
    assert shown["target"]["iterator"] == "bpf_map_elem"
    assert {node["name"] for node in here.ok("graph")["nodes"]} >= {"tasks", "elements"}

    heals_after_kills(here, tmp_path, [*name, *words])
    here.ok("unload", "seen")
    assert not here.set.exists()
    wait_until(lambda: not own_iterators(here))


def own_iterators(here: Here) -> list[object]:
    links = here.ok("link", "list", "--type", "iter", "--program", "tasks")["links"]
    return list(links)


def heals_after_kills(here: Here, folder: Path, words: list[str]) -> None:
    """Kill reloads at moments spread over them; the next command leaves one link each."""
    tail = [*words, "--pin-root", str(here.root)]
    third = compiled("iterators", defines=('WORD="third"',))
    moments = points(["load", str(third), *tail], folder=folder)
    for number, point in enumerate(moments[:: max(1, len(moments) // KILLS)]):
        word = ("fourth", "third")[number % 2]
        source = compiled("iterators", defines=(f'WORD="{word}"',))
        ended = faulted(["load", str(source), *tail], Injection(point, Fault.KILL), folder=folder)
        assert ended.was_hit
        here.ok("load", source, *words)
        text = here.ok("link", "read", "seen/tasks")["text"]

        assert {line.split()[0] for line in text.splitlines()} == {word}
        wait_until(lambda: len(own_iterators(here)) == 1)


def test_wrong_targets_of_a_load(here: Here) -> None:
    source = compiled("iterators")
    for word, exit_code, message in (
        ("tasks:iter=tsk", 8, "iterator 'tsk'"),
        ("tasks:iter=task,pid=2147483647", 4, "no process or thread"),
        ("tasks:iter=task,map=counts", 2, "takes no map"),
        ("tasks:iter=task,pid", 2, "such as task,pid=42"),
        ("elements:iter=bpf_map_elem,map=count", 4, "has no map 'count'"),
        ("elements", 2, "map=NAME"),
    ):
        refused = here.run("load", source, "--name", "seen", "--prog", word)

        assert (refused.exit_code, message in refused.stderr) == (exit_code, True), refused.stderr
        assert not here.set.exists()
