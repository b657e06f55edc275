"""A guest: qemu with one kernel, the root of this machine, and a folder for results.

Software emulation only, and with `-icount`: the guest's clock counts its instructions, so timeouts
in the guest do not depend on how busy this machine is.

Two watches end a guest that hangs. The guest's own (`start.sh`) ends it if its command writes
nothing for a long time by the guest's clock. This side ends it if even that watch is silent, and
counts the work of qemu instead of time, so that a busy machine ends no guest that works.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guests.image import Boot
from guests.kernels import AMD64

START = Path(__file__).with_name("start.sh")
MEMORY = "3G"
# A model of x86-64-v2, which numpy needs.
AMD64_MACHINE = ("qemu-system-x86_64", "-M", "q35", "-cpu", "Nehalem")
ARM64_MACHINE = ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72")
SERIAL = {AMD64: "ttyS0"}
OTHER_SERIAL = "ttyAMA0"
COMMAND_LINE = (
    "quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable audit=0"
    # Two processors are possible, one is there: per-CPU values have a value that nobody writes.
    " possible_cpus=2"
)
NEVER_RAN = 255
HUNG = 124  # as timeout(1) says it; start.sh
LOOK_S = 1.0
# The guest's watch writes every 10 seconds of the guest, which cost qemu up to 60 seconds of a
# processor; a boot costs 20 to 40.
SILENT_S = 900.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Guest:
    """What a guest sees: a root, and copies of the folders that it uses most."""

    boot: Boot
    root: Path
    copies: Mapping[Path, Path]  # folder in the guest -> squashfs


@dataclass(frozen=True)
class Result:
    """How the command in a guest ended; *seconds* are those of the guest's clock.

    *cpu_seconds* are those that qemu used a processor of this machine.
    """

    exit: int
    seconds: float
    folder: Path
    cpu_seconds: float = 0.0


def run(guest: Guest, command: Sequence[str], cwd: Path, out: Path) -> Result:
    """Boot the guest, run one command in *cwd*, and return its exit code.

    *out* is emptied, and is `/mnt/guest` in the guest. There are the command's output, the
    kernel's messages and what the command writes. If the guest ends by itself, exit is NEVER_RAN.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copyfile(START, out / "start.sh")
    shutil.copyfile(guest.boot.busybox, out / "busybox")
    (out / "busybox").chmod(0o755)
    # The configuration, which programs may ask for; some packages have it beside the modules.
    for config in (guest.boot.image.parent / "boot").glob(f"config-{guest.boot.release}"):
        shutil.copyfile(config, out / "config")
    (out / "folders").write_text("".join(f"{folder}\n" for folder in guest.copies))
    (out / "command.sh").write_text(f"cd {shlex.quote(str(cwd))} && exec {shlex.join(command)}\n")
    with (out / "console").open("wb") as console:
        # A terminal sends Ctrl-C to its whole group: qemu gets a group of its own, and ends here.
        # If this process is killed, the kernel ends qemu.
        command = ["setpriv", "--pdeathsig", "TERM", *_qemu(guest, out)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, start_new_session=True
        )
        work = Work(process.pid)
        try:
            is_silent = _watch(process, work, out)
        finally:
            _end(process)
    exit_file, seconds_file = out / "exit", out / "seconds"
    if is_silent or not exit_file.exists():
        if is_silent:
            print(f"{guest.boot.kernel.name}: the guest hung and was ended", file=sys.stderr)
        print((out / "console").read_text(errors="replace")[-3000:], file=sys.stderr)
        return Result(NEVER_RAN, 0.0, out, work.cpu_seconds)
    seconds = float(seconds_file.read_text())
    return Result(int(exit_file.read_text()), seconds, out, work.cpu_seconds)


def stop() -> None:
    """End all guests; `run` raises `KeyboardInterrupt` in the threads that run them."""
    _is_stopping.set()


_is_stopping = threading.Event()


def _watch(process: subprocess.Popen[bytes], work: Work, out: Path) -> bool:
    """Wait for qemu to end; return whether it worked or slept too long without a sign of life."""
    sign = _sign_of_life(out)
    while True:
        try:
            process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            return False
        if _is_stopping.is_set():
            raise KeyboardInterrupt
        seconds = work.seconds()
        if (now := _sign_of_life(out)) != sign:
            sign = now
            work.restart()
        elif seconds > SILENT_S:
            return True


def _sign_of_life(out: Path) -> list[tuple[int, int]]:
    """Return the state of what changes while a guest works: its console, its output, its watch."""
    paths = [out / name for name in ("console", "output", "alive") if (out / name).exists()]
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


class Work:
    """The time that a process used a processor or slept; not the time that it waited for one."""

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._folder = proc / str(pid)
        self._before = 0
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._begin, self._asleep = self._used(), 0.0
        self._before = self._begin

    @property
    def cpu_seconds(self) -> float:
        """The time on a processor since the process began, when `seconds` was called last."""
        return self._before / TICKS

    def seconds(self) -> float:
        """Return the seconds since the last restart; called once in LOOK_S."""
        used = self._used()
        # A process that waits for a processor uses none either, but is not asleep.
        if used == self._before and not self._is_runnable():
            self._asleep += LOOK_S
        self._before = used
        return (used - self._begin) / TICKS + self._asleep

    def _used(self) -> int:
        fields = _fields(self._folder / "stat")
        return int(fields[11]) + int(fields[12]) if fields else self._before

    def _is_runnable(self) -> bool:
        threads = map(_fields, self._folder.glob("task/*/stat"))
        return any(fields[0] in "RD" for fields in threads if fields)


def _fields(path: Path) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; none if the process has ended."""
    try:
        # The second field is the name in parentheses, which may have spaces in it.
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(LOOK_S * 30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _qemu(guest: Guest, out: Path) -> list[str]:
    boot = guest.boot
    is_amd64 = boot.kernel.architecture == AMD64
    serial = SERIAL.get(boot.kernel.architecture, OTHER_SERIAL)
    words = [
        *(AMD64_MACHINE if is_amd64 else ARM64_MACHINE),
        *("-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=on,align=off"),
        *("-smp", "1,maxcpus=2", "-m", MEMORY, "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", "stdio"),
        *("-kernel", str(boot.image), "-initrd", str(boot.initramfs)),
        *("-append", f"console={serial} {COMMAND_LINE}"),
        *_folder("host", guest.root, is_read_only=True),
        *_folder("modules", boot.modules, is_read_only=True),
        *_folder("out", out),
        # A network that ends in qemu: its gateway answers, and nothing leaves this machine.
        *("-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng"),
    ]
    for number, image in enumerate(guest.copies.values()):
        drive = f"file={image},format=raw,if=none,id=disk{number},readonly=on"
        words += ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{number}"]
    return words


def _folder(tag: str, path: Path, *, is_read_only: bool = False) -> list[str]:
    readonly = ",readonly=on" if is_read_only else ""
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap{readonly}"
    return [
        *("-fsdev", options),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]
