"""`load` of programs at probes of user programs (USDT): their arguments, semaphores, reloads."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin import attach_usdt
from bpfpin import load as load_object
from bpfpin.attach.uprobe_multi import kernel_has_links
from bpfpin.hooks import Hook
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.elf.executable import Executable
from bpfpin.objfile.elf.usdt import read_probes
from bpfpin.objfile.reader import read_object
from support.here import Here
from support.objects import compiled_with_headers
from support.user_program import Probed, probed, running

# What the program sees when each function was called once, with the number 1.
COLLECT = """
import gc, os, sys
gc.disable()
for line in sys.stdin:
    gc.collect(int(line))
os._exit(0)
"""
ARGUMENTS = {
    "plain": [],
    "registers": [-1, 255, -2, 65534, -3, 4294967293, 1],
    "memory": [200, -3, -2, 255, -7],
    "indexed": [200, 300],
}
if platform.machine() == "x86_64":
    ARGUMENTS["variable"] = [1, -12]


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


@pytest.fixture
def process() -> Iterator[Probed]:
    with running() as process:
        yield process


def source(*defines: str) -> Path:
    return compiled_with_headers("attach/usdt", defines=defines)


def load(here: Here, *words: object, step: int = 1) -> dict[str, object]:
    made = source(f"STEP={step}")
    document: dict[str, object] = here.ok("load", made, "--name", "seen", *words)
    return document


def seen(here: Here) -> tuple[int, list[int]]:
    """Return how often the program ran, and the arguments that it saw last."""
    with Map.from_pin(here.set / "seen") as bpf_map:
        values = bpf_map[0]
    return values["count"], list(values["arguments"][: values["number"]])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_program_reads_the_arguments(here: Here, process: Probed, name: str) -> None:
    load(here, f"--prog=on_probe:usdt={probed()}:probed:{name}")
    process.call(1)

    assert seen(here) == (1, ARGUMENTS[name])


def test_a_probe_with_a_semaphore_is_on_while_it_is_probed(here: Here, process: Probed) -> None:
    load(here, f"--prog=on_probe:usdt={probed()}:probed:guarded,pid={process.pid}")
    process.call(2)
    first = seen(here)
    with Map.from_pin(here.set / "seen") as bpf_map:
        here.ok("unload", "seen")
        process.call(2)
        after = bpf_map[0]["count"]

    assert first == (2, [5])
    assert after == 2


def test_all_places_of_a_probe_count_once_over_a_reload(here: Here, process: Probed) -> None:
    word = f"--prog=on_probe:usdt={probed()}:probed:twice"
    loaded = load(here, word)
    process.call(3)
    first = seen(here)
    before = here.ok("status")["sets"][0]
    again, reloaded = load(here, word), load(here, word, step=1000)
    process.call(2)
    after = here.ok("status")["sets"][0]

    # Before Linux 6.6 each place has a link of its own.
    assert len(before["hooks"]) == (1 if kernel_has_links(Hook.UPROBE_MULTI) else 2)
    assert ("2 places" in str(loaded)) == (len(before["hooks"]) == 1)
    assert first == (2 * 3, [2])
    assert (again["result"], reloaded["result"]) == ("unchanged", "reloaded")
    assert seen(here) == (2 * 3 + 2 * 2 * 1000, [2])
    assert before["state"] == after["state"] == "ok"
    assert [hook["link"] for hook in before["hooks"]] == [hook["link"] for hook in after["hooks"]]
    assert {hook["held"] for hook in after["hooks"]} == {"stub"}
    assert after["hooks"][0]["device"].startswith(f"probe {probed()}:probed:twice")


def test_a_new_map_of_specs_is_filled_anew(here: Here, process: Probed) -> None:
    words = (f"--prog=on_probe:usdt={probed()}:probed:memory",)
    load(here, *words)
    load(here, *words, "--fresh", "__bpf_usdt_specs", step=10)
    process.call(1)

    assert seen(here) == (10, ARGUMENTS["memory"])


def test_several_probes_share_the_map(here: Here, process: Probed) -> None:
    load(here, *(f"--prog=on_probe:usdt={probed()}:probed:{name}" for name in ARGUMENTS))
    process.call(1)
    count, arguments = seen(here)

    assert count == len(ARGUMENTS)
    assert arguments == list(ARGUMENTS.values())[-1]


def test_a_cookie_comes_with_the_arguments() -> None:
    made = read_object(source())
    with load_object(made, programs=["on_probe"]) as loaded, running() as process:
        specs = loaded.maps["__bpf_usdt_specs"]
        program = loaded.programs["on_probe"]
        with attach_usdt(program, probed(), "probed", "memory", specs=specs, cookie=9):
            process.call(1)

        assert loaded.maps["seen"][0]["arguments"][:5] == ARGUMENTS["memory"]
        assert specs[1]["usdt_cookie"] == 9


def test_all_places_are_attached_by_a_loaded_object() -> None:
    target = f"{probed()}:probed:twice"
    with load_object(read_object(source()), programs=["on_probe"]) as loaded, running() as process:
        with loaded.attach(targets={"on_probe": target}):
            process.call(3)
        process.call(1)
        values = loaded.maps["seen"][0]

    assert values["count"] == 2 * 3
    assert list(values["arguments"][: values["number"]]) == [2]


def test_a_probe_of_pythons_own(here: Here) -> None:
    """Where the distribution built Python with probes, as Debian does."""
    python = Path("/usr/bin/python3").resolve()
    if not python.exists():
        pytest.skip(f"{python} is not there")
    with Executable(python) as executable:
        names = {probe.name for probe in read_probes(executable)}
    if "gc__start" not in names:
        pytest.skip(f"{python} has no probes")
    pipe = subprocess.PIPE
    words = [str(python), "-c", COLLECT]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        load(here, f"--prog=on_probe:usdt={python}:python:gc__start,pid={process.pid}")
        process.communicate("1\n1\n1\n")

    assert seen(here) == (3, [1])


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        ("", (2, "libstdc++:libstdcxx:throw")),
        ("={probed}:plain", (2, "is not a probe of a file")),
        ("={probed}:probed:plane", (4, "near it: probed:plain")),
        ("=libc.so.6:libc:nothing", (4, "has no probe")),
        ("={probed}:probed:twice,place=3", (4, "2 places")),
    ],
)
def test_a_wrong_probe_is_refused(here: Here, target: str, refused: tuple[int, str]) -> None:
    exit_code, words = refused
    word = f"on_probe:usdt{target.format(probed=probed())}"
    result = here.refused(exit_code, "load", source(), "--name", "seen", "--prog", word)

    assert words in result.stderr
