"""A guest: qemu with one kernel, the root of this machine, and a folder for results.

Software emulation only, and with `-icount`: the guest's clock counts its instructions, so timeouts
in the guest do not depend on how busy this machine is.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
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


@dataclass(frozen=True)
class Guest:
    """What a guest sees: a root, and copies of the folders that it uses most."""

    boot: Boot
    root: Path
    copies: Mapping[Path, Path]  # folder in the guest -> squashfs


@dataclass(frozen=True)
class Result:
    """How the command in a guest ended; *seconds* are those of the guest's clock."""

    exit: int
    seconds: float
    folder: Path


def run(guest: Guest, command: Sequence[str], cwd: Path, out: Path) -> Result:
    """Boot the guest, run one command in *cwd*, and return its exit code.

    *out* is emptied, and is `/mnt/guest` in the guest. There are the command's output, the
    kernel's messages and what the command writes. If the guest ends by itself, exit is NEVER_RAN.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copyfile(START, out / "start.sh")
    shutil.copyfile(guest.boot.initramfs.parent / "initramfs.d/bin/busybox", out / "busybox")
    (out / "busybox").chmod(0o755)
    (out / "folders").write_text("".join(f"{folder}\n" for folder in guest.copies))
    (out / "command.sh").write_text(f"cd {shlex.quote(str(cwd))} && exec {shlex.join(command)}\n")
    with (out / "console").open("wb") as console:
        process = subprocess.Popen(_qemu(guest, out), stdin=subprocess.DEVNULL, stdout=console)
        try:
            process.wait()
        finally:
            _end(process)
    exit_file, seconds_file = out / "exit", out / "seconds"
    if not exit_file.exists():
        print((out / "console").read_text(errors="replace")[-3000:], file=sys.stderr)
        return Result(NEVER_RAN, 0.0, out)
    return Result(int(exit_file.read_text()), float(seconds_file.read_text()), out)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
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
