"""What a guest boots: an uncompressed kernel, an initramfs, squashfs images of busy folders."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guests.kernels import AMD64, Kernel
from guests.packages import Suite, output_of

# The modules on the way to the root file system.
MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "squashfs"),
    *("9pnet_virtio", "9p", "overlay", "virtio_net"),
)
INIT = Path(__file__).with_name("init.sh")
# Offsets in the header of a bzImage (Documentation/arch/x86/boot.rst of Linux).
SETUP_SECTORS, PAYLOAD_OFFSET = 0x1F1, 0x248
SECTOR = 512


@dataclass(frozen=True)
class Boot:
    """The files of a kernel, unpacked: *modules* is its `/lib/modules`."""

    kernel: Kernel
    release: str
    image: Path
    initramfs: Path
    modules: Path
    busybox: Path


def unpacked(kernel: Kernel, folder: Path, *, is_updated: bool = False) -> Boot:
    """Download a kernel once and return its files; the newest version that the suite has.

    *is_updated* asks the suite again, and replaces the kernel if it has a newer version.
    """
    target = folder / "kernels" / kernel.name
    ready = target / "release"
    release = ready.read_text() if ready.exists() else ""
    if is_updated or not release:
        suite = Suite(kernel.suite, kernel.architecture, folder / "apt", is_updated=is_updated)
        packages = suite.find(kernel.package_pattern)
        if not packages:
            raise SystemExit(f"Debian {kernel.suite} has no kernel {kernel.name}")
        package = packages[-1]
        if release != package.removeprefix("linux-image-"):
            release = package.removeprefix("linux-image-")
            _unpack(kernel, suite, package, target)
            ready.write_text(release)
    modules = target / "lib/modules"
    busybox = _busybox(kernel, folder)
    boot = Boot(kernel, release, target / "image", target / "initramfs", modules, busybox)
    _write_initramfs(boot, target)
    return boot


def squash(folder: Path, target: Path, *, without: Sequence[str] = ()) -> None:
    """Write *folder* as an uncompressed squashfs; *without* are names in it.

    9p asks the host for each name that does not exist, and Python looks for thousands of those.
    """
    plain = ["-noI", "-noD", "-noF", "-noX", "-no-xattrs", "-no-progress", "-quiet", "-noappend"]
    excluded = ["-wildcards", "-e", *without] if without else []
    target.unlink(missing_ok=True)
    output_of(["mksquashfs", folder, target, *plain, *excluded])


def _unpack(kernel: Kernel, suite: Suite, package: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    release = package.removeprefix("linux-image-")
    # New suites split a kernel into several packages of the same version.
    parts = [name for name in suite.dependencies(package) if release in name]
    suite.unpack([package, *parts], target)
    output_of(["depmod", "-b", target, release])
    (packed,) = target.rglob("vmlinuz*")
    _write_image(kernel, packed, target / "image")
    packed.unlink()


def _write_image(kernel: Kernel, packed: Path, target: Path) -> None:
    if kernel.architecture == AMD64:
        target.write_bytes(_vmlinux(packed.read_bytes()))
    else:
        shutil.copyfile(packed, target)


def _vmlinux(image: bytes) -> bytes:
    """Return the ELF file in a bzImage, which qemu starts without decompressing it in the guest."""
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = (image[SETUP_SECTORS] + 1) * SECTOR + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    tool = "zstd" if payload.startswith(b"\x28\xb5\x2f\xfd") else "lz4"
    # The size that the kernel appends to its payload is an error for these tools.
    result = subprocess.run([tool, "-dc"], input=payload, capture_output=True, check=False)
    if not result.stdout.startswith(b"\x7fELF"):
        raise SystemExit(f"{tool} cannot unpack the kernel: {result.stderr.decode()}")
    return result.stdout


def _write_initramfs(boot: Boot, target: Path) -> None:
    root = target / "initramfs.d"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "host", "memory", "root", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copyfile(boot.busybox, root / "bin/busybox")
    shutil.copyfile(INIT, root / "init")
    (root / "bin/busybox").chmod(0o755)
    (root / "init").chmod(0o755)
    order = [_copy_module(path, root / "modules") for path in _module_files(boot, target)]
    (root / "modules/order").write_text("\n".join(order) + "\n")
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    draft = boot.initramfs.with_suffix(".draft")
    with draft.open("wb") as file:
        cpio = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(cpio, cwd=root, input=names.encode(), stdout=file, check=True)
    draft.replace(boot.initramfs)
    shutil.rmtree(root)


def _busybox(kernel: Kernel, folder: Path) -> Path:
    """Return a busybox that needs no libraries, of the kernel's architecture."""
    name = kernel.suite.removesuffix("-backports")
    target = folder / "busybox" / f"{name}-{kernel.architecture}"
    busybox = target / "busybox"
    if not busybox.exists():
        draft = target / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        Suite(name, kernel.architecture, folder / "apt").unpack(["busybox-static"], draft)
        next(draft.rglob("bin/busybox")).replace(busybox)
        shutil.rmtree(draft)
    return busybox


def _module_files(boot: Boot, target: Path) -> list[Path]:
    """Return the modules in the order in which they must be loaded; some are built in."""
    paths: list[Path] = []
    for module in MODULES:
        words = ["modprobe", "-d", str(target), "-S", boot.release, "--show-depends", module]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        files = re.findall(r"^insmod (\S+)", result.stdout, re.MULTILINE)
        paths += [path for path in map(Path, files) if path not in paths]
    return paths


def _copy_module(path: Path, folder: Path) -> str:
    """Copy a module, uncompressed, and return its name."""
    tools = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
    if path.suffix not in tools:
        shutil.copyfile(path, folder / path.name)
        return path.name
    with (folder / path.stem).open("wb") as file:
        subprocess.run([tools[path.suffix], "-dc", os.fspath(path)], stdout=file, check=True)
    return path.stem
