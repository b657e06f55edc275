"""BPF objects that other packages put on this machine: files, and images within their binaries."""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

FILES = ("/usr/lib/*/bpf/*.o", "/usr/lib/bpf/*.o")
BINARIES = ("/usr/sbin", "/usr/bin", "/usr/lib/systemd", "/usr/lib/*/systemd")

_IDENT = b"\x7fELF\x02\x01\x01"
_BPF = struct.pack("<HH", 1, 247)  # ET_REL, EM_BPF, at byte 16
_HEADER_SIZE = 64
_MAX_BYTES = 64 << 20


@functools.cache
def found_objects() -> dict[str, bytes]:
    """Return each different object by a name that says where it was found."""
    found: dict[bytes, str] = {}
    for pattern in FILES:
        for path in _matches(pattern):
            found.setdefault(path.read_bytes(), path.name)
    for folder in BINARIES:
        for path in _matches(f"{folder}/*"):
            for number, image in enumerate(_images(path), 1):
                found.setdefault(image, f"{path.name}#{number}")
    return {name: data for data, name in found.items()}


def _matches(pattern: str) -> list[Path]:
    paths = sorted(Path("/").glob(pattern.removeprefix("/")))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _images(path: Path) -> Iterator[bytes]:
    """Yield the BPF objects that a program carries: their section headers are their end."""
    if not _HEADER_SIZE < path.stat().st_size <= _MAX_BYTES:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_IDENT, 1)
        while at >= 0:
            if data[at + 16 : at + 20] == _BPF:
                (headers,) = struct.unpack_from("<Q", data, at + 40)
                size, count = struct.unpack_from("<HH", data, at + 58)
                yield data[at : at + headers + size * count]
            at = data.find(_IDENT, at + 1)
