"""Every bad input as a user types it: the exit code, what is said, and that nothing is left."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.xdp import xdp_holder
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.pins.bpffs import open_to_change
from bpfpin.pins.lock import locked
from bpfpin.spec import XdpMode
from support.cli import CliResult, run_cli, run_cli_ok
from support.elf_writer import ElfWriter
from support.lab import TestLab
from support.nobody import run_cli_as_nobody
from support.objects import compiled
from support.tools import need
from support.wait import HANG_S

ROOT = Path("/sys/fs/bpf")
SHIPPED = Path(__file__).parents[2] / "src/bpfpin/builtin"
GOOD = (SHIPPED / "xdp_stats.bpf.o").read_bytes()
ERROR_KEYS = {"type", "exit", "message", "hint", "differences"}
CLI = [sys.executable, "-m", "bpfpin"]


def names_in_root() -> list[str]:
    """Return all names below the pin root but the lock's and the kernel's own."""
    found = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*"))
    return [name for name in found if name != "bpfpin~" and "." not in name]


@pytest.fixture(autouse=True)
def unchanged(lab: TestLab) -> Iterator[None]:
    """Whatever a test's bad input was: pins and device are as they were."""
    before = names_in_root()
    yield

    assert names_in_root() == before
    assert xdp_holder(lab.ifindex) is None


def told(result: CliResult, exit_code: int, *words: str) -> None:
    """Check an answer to `-o json`: one document, the same sentence on stderr, *words* in it."""
    error = result.json["error"]

    assert (result.exit_code, error["exit"]) == (exit_code, exit_code), result.stderr
    assert (result.json["schema"], set(error) - {"verifier"}) == (1, ERROR_KEYS)
    assert error["message"] in result.stderr
    assert [word for word in words if word not in result.stderr] == []


def load(lab: TestLab, *words: object) -> CliResult:
    return run_cli("load", *words, "--dev", lab.device, "-o", "json")


def run(*argv: object) -> CliResult:
    """Run any command line, that of strace or unshare for one."""
    done = subprocess.run(
        [*map(str, argv)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    return CliResult(done.returncode, done.stdout, done.stderr)


def test_an_ordinary_user_is_told_the_capabilities_and_the_sudo_line(lab: TestLab) -> None:
    result = run_cli_as_nobody("load", "--dev", lab.device, "-o", "json")

    told(result, 3, "CAP_BPF", "CAP_NET_ADMIN")
    line = f"sudo {sys.executable} -P -m bpfpin load --dev {lab.device} -o json"
    assert result.json["error"]["hint"] == line


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_missing_device_is_told_with_near_names(lab: TestLab, verb: str) -> None:
    wanted = f"{lab.device}x"
    words = ["--dev", wanted, "-o", "json"]
    result = run_cli(verb, *words)

    told(result, 4, wanted)
    if verb == "load":
        told(result, 4, f"there are: lo, {lab.device}", f"did you mean {lab.device}?")


def test_a_missing_namespace_is_told_with_those_there_are(lab: TestLab) -> None:
    result = run_cli("-n", "nosuch", "load", "--dev", "veth0", "-o", "json")

    told(result, 4, "nosuch", "there are:", lab.lab.netns)


def changed(at: int, data: bytes) -> bytes:
    return GOOD[:at] + data + GOOD[at + len(data) :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#!/bin/sh\necho no object\n", ["not an ELF file", "offset 0x0"]),
        (b"", ["not an ELF file"]),
        (changed(5, b"\x02"), ["not for BPF", "offset 0x12"]),
        (changed(18, struct.pack("<H", 62)), ["x86-64, not for BPF", "offset 0x12"]),
        (changed(16, struct.pack("<H", 2)), ["offset 0x10"]),
    ],
    ids=["a-script", "nothing", "big-endian", "x86-64", "an-executable"],
)
def test_what_is_no_bpf_object_is_told_with_its_place(
    lab: TestLab, tmp_path: Path, data: bytes, words: list[str]
) -> None:
    path = tmp_path / "bad.o"
    path.write_bytes(data)

    told(load(lab, path), 5, str(path), *words)


@pytest.mark.parametrize("size", [1, 17, 63, 64, 300, len(GOOD) // 2, len(GOOD) - 1])
def test_a_truncated_object_is_told(lab: TestLab, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.o"
    path.write_bytes(GOOD[:size])
    result = load(lab, path)

    told(result, 5, str(path), "truncated" if size >= 16 else "not an ELF file")
    assert result.json["error"]["type"] == "ObjectFileError"


def test_a_missing_object_is_told(lab: TestLab, tmp_path: Path) -> None:
    told(load(lab, tmp_path / "none.o"), 4, str(tmp_path / "none.o"))
    told(load(lab, "builtin:nosuch"), 4, "builtin:nosuch", "builtin:xdp_stats")


def test_a_map_definition_of_odd_size_is_told_with_section_and_symbol(
    lab: TestLab, tmp_path: Path
) -> None:
    elf = ElfWriter()
    elf.license("GPL")
    maps = elf.section("maps", bytes(18))
    counts = elf.symbol("counts", maps, size=18)
    program = elf.function("xdp", "count", [*load_imm64(1, 0), mov_imm(0, 2), exit_()])
    elf.relocation(program, counts, at=0)
    path = tmp_path / "odd.o"
    path.write_bytes(elf.build())

    words = ["18 bytes", "section maps", "symbol counts", "offset 0x0"]
    told(load(lab, path), 5, str(path), *words)


def test_a_refusal_of_the_verifier_has_the_line_of_c_and_the_log(
    lab: TestLab, tmp_path: Path
) -> None:
    log = tmp_path / "verifier.log"
    result = load(lab, compiled("verifier_refused"), "--log-file", log)

    told(result, 5, "*counter += 1;", "map_value_or_null", f"whole log is in {log}")
    assert "map_value_or_null" in log.read_text()


WITHOUT_BPFFS = "while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit 99; done"
RELOAD = f"{' '.join(CLI)} load --dev $DEV && {' '.join(CLI)} unload $DEV"


def in_mounts(script: str, device: str = "") -> CliResult:
    """Run a shell script where the mounts are its own."""
    return run("env", f"DEV={device}", "unshare", "-m", "bash", "-c", script)


def test_without_any_bpffs_load_mounts_one_and_the_others_do_not(lab: TestLab) -> None:
    cli = " ".join(CLI)
    shown = in_mounts(f"{WITHOUT_BPFFS}; {cli} status && ! mountpoint -q /sys/fs/bpf")
    missing = in_mounts(f"{WITHOUT_BPFFS}; {cli} -o json unload lo")
    loaded = in_mounts(f"{WITHOUT_BPFFS}; {RELOAD} && mountpoint -q /sys/fs/bpf", lab.device)

    assert (shown.exit_code, "nothing is loaded" in shown.stderr) == (0, True)
    told(missing, 4, "nothing is loaded")
    assert loaded.exit_code == 0, loaded.stderr


@pytest.mark.parametrize("words", ["load --dev $DEV", "status", "unload $DEV", "stats $DEV"])
def test_something_else_mounted_there_is_told_with_the_mount_line(lab: TestLab, words: str) -> None:
    script = f"mount -t tmpfs tmpfs /sys/fs/bpf && {' '.join(CLI)} -o json {words}"

    told(in_mounts(script, lab.device), 4, "tmpfs", "mount -t bpf bpf /sys/fs/bpf")


def test_a_pin_root_in_an_ordinary_folder_is_told(lab: TestLab, tmp_path: Path) -> None:
    result = load(lab, "--pin-root", tmp_path)

    told(result, 4, "name a place in a bpffs: one is mounted at /sys/fs/bpf")
    assert list(tmp_path.iterdir()) == []


def test_inside_ip_netns_exec_the_way_out_is_named(lab: TestLab) -> None:
    words = ["load", "--dev", lab.lab.peer, "-o", "json"]
    result = run("ip", "netns", "exec", lab.lab.netns, *CLI, *words)

    told(result, 4, "ip netns exec", f"-n {lab.lab.netns}", "mount -t bpf bpf /sys/fs/bpf")


def test_a_device_held_by_netlink_is_told_with_the_holder_and_left(lab: TestLab) -> None:
    spec = read_object(SHIPPED / "xdp_pass.bpf.o").programs["xdp_pass"]
    with Program.load(spec) as theirs, Netlink() as netlink:
        netlink.attach_xdp(theirs.fd, lab.ifindex, XdpMode.NATIVE)
        result = load(lab)
        planned = load(lab, "--dry-run")
        there = xdp_holder(lab.ifindex)
        netlink.detach_xdp(lab.ifindex, XdpMode.NATIVE)

        holder = f"program id {theirs.id} (xdp_pass) in native mode, held by netlink"

    told(result, 7, lab.device, holder)
    told(planned, 7, lab.device, holder)
    assert there is not None
    assert str(there).startswith(holder)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_directory_that_is_not_ours_is_left_alone(lab: TestLab, verb: str) -> None:
    theirs = ROOT / lab.device
    theirs.mkdir()
    (theirs / "sub").mkdir()
    words = ["--dev", lab.device, "-o", "json"]
    result = run_cli(verb, *words)
    kept = [path.name for path in theirs.iterdir()]
    (theirs / "sub").rmdir()
    theirs.rmdir()

    assert kept == ["sub"]
    if verb == "load":
        told(result, 7, str(theirs), "--name")
    else:
        told(result, 4, lab.device)


@pytest.fixture
def action(lab: TestLab) -> Iterator[Path]:
    """The pin of a one-entry array of a loaded set."""
    run_cli_ok("load", "--dev", lab.device)
    yield ROOT / lab.device / "action"
    run_cli_ok("unload", lab.device)


def test_a_missing_key_or_pin_is_told(action: Path) -> None:
    told(run_cli("map", "get", action, "5", "-o", "json"), 4, "action", "index 5 is past the end")
    told(run_cli("map", "get", f"{action}x", "0", "-o", "json"), 4, f"{action}x")


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("links~/xdp", "a link is there"),
        ("programs~/xdp_stats", "a program is there"),
        ("", "a directory is there"),
        ("manifest~", "symbolic link"),
    ],
)
def test_a_pin_of_another_kind_is_told(action: Path, place: str, kind: str) -> None:
    path = action.parent / place

    told(run_cli("map", "get", path, "0", "-o", "json"), 6, str(path), kind)


def test_a_second_load_with_maps_that_do_not_fit_is_told_and_changes_nothing(
    action: Path, lab: TestLab
) -> None:
    source = SHIPPED / "xdp_stats.bpf.o"
    before = xdp_holder(lab.ifindex)
    result = load(lab, source, "--map", f"xdp_stats_map={action}")

    told(result, 6, str(action), "xdp_stats_map: type: array -> percpu_array", "is used by:")
    assert xdp_holder(lab.ifindex) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "no verb 'frobnicate'"),
        (["load", "--frob"], "--frob"),
        (["load", "--dev", "DEV", "--prog", "nosuch"], "no program 'nosuch'; it has: xdp_stats"),
        (["load", "--dev", "DEV", "--prog", "xdp_stats:nowhere"], "no hook 'nowhere'"),
        (["load", "--dev", "DEV", "--hook", "nowhere"], "no hook 'nowhere'"),
        (["load", "--dev", "DEV", "--mode", "fast"], "'fast'"),
        (["load"], "--dev DEV"),
        (["load", "--dev", "DEV", "-o", "yaml"], "'yaml'"),
        (["stats", "--interval", "0", "DEV"], "--interval"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_word_that_nobody_knows_is_a_usage_error(
    lab: TestLab, words: list[str], said: str
) -> None:
    typed = [lab.device if word == "DEV" else word for word in words]
    result = run_cli(*typed, *([] if "-o" in typed else ["-o", "json"]))

    assert result.exit_code == 2
    assert said in result.stderr
    if "-o" not in typed:
        told(result, 2)


def test_a_lock_held_too_long_is_told_with_its_holder(lab: TestLab) -> None:
    with open_to_change(ROOT) as root, locked(root, timeout_s=5):
        result = load(lab, "--lock-timeout", "0.2")
        shown = run_cli("status")

    told(result, 7, f"process {os.getpid()}", "0.2 seconds", "--lock-timeout")
    assert shown.exit_code == 0


def test_maps_that_take_too_much_are_told_with_the_sizes(lab: TestLab) -> None:
    result = load(lab, "--max-map-memory", "64")

    told(result, 5, "xdp_stats_map", "the limit is 64 bytes", "--max-map-memory")
    assert result.json["error"]["type"] == "LimitError"


def load_with_signal(lab: TestLab, number: signal.Signals, call: str) -> CliResult:
    """Run a load that gets the signal at a system call: `symlinkat:when=3`."""
    need("strace")
    name, when = call.split(":")
    inject = f"inject={name}:signal={number.name}:{when}"
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={name}", "-e", inject]
    return run(*strace, *CLI, "load", "--dev", lab.device, "-o", "json")


ENDINGS = {
    signal.SIGTERM: (143, "terminated by SIGTERM"),
    signal.SIGINT: (130, "interrupted"),
}


@pytest.mark.parametrize("call", ["bpf:when=1", "bpf:when=6", "bpf:when=13", "symlinkat:when=3"])
@pytest.mark.parametrize("number", ENDINGS, ids=lambda number: number.name)
def test_a_signal_while_loading_leaves_nothing(
    lab: TestLab, call: str, number: signal.Signals
) -> None:
    result = load_with_signal(lab, number, call)

    told(result, *ENDINGS[number])


@pytest.mark.parametrize("number", ENDINGS, ids=lambda number: number.name)
def test_a_signal_after_the_commit_point_waits_for_the_end(
    lab: TestLab, number: signal.Signals
) -> None:
    """The second rename is the publishing one; the first asks whether bpffs can exchange."""
    result = load_with_signal(lab, number, "renameat2:when=2")
    shown = run_cli("status", "--check", "-o", "json")
    left = [name for name in names_in_root() if "~stage" in name or "commit~" in name]
    run_cli_ok("unload", lab.device)

    told(result, *ENDINGS[number])
    assert (shown.exit_code, shown.json["sets"][0]["state"]) == (0, "ok")
    assert left == []
