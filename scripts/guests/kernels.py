"""The kernels that the tests run on: name, suite of Debian, architecture and flavour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AMD64: Final = "amd64"
ARM64: Final = "arm64"


@dataclass(frozen=True)
class Kernel:
    """A kernel as a developer names it (`KERNELS="6.1 6.12-rt"`).

    *series* is the start of the version, "" for the newest of the suite. *is_supported* is false if
    bpfpin must refuse the kernel.
    """

    name: str
    suite: str
    series: str
    architecture: str = AMD64
    is_realtime: bool = False
    is_supported: bool = True

    @property
    def package_pattern(self) -> str:
        """Return the regular expression of the packages with this kernel, of all its versions."""
        flavour = f"rt-{self.architecture}" if self.is_realtime else self.architecture
        series = self.series.replace(".", r"\.") or r"[0-9]+\.[0-9]+"
        return rf"^linux-image-{series}\.[0-9]+[-+][^-]*-{flavour}$"


KERNELS: Final = {
    kernel.name: kernel
    for kernel in (
        Kernel("5.10", "bullseye", "5.10", is_supported=False),
        Kernel("6.1", "bookworm", "6.1"),
        Kernel("6.12", "trixie", "6.12"),
        Kernel("6.12-rt", "trixie", "6.12", is_realtime=True),
        Kernel("6.18", "trixie-backports", "6.18"),
        Kernel("newest", "trixie-backports", ""),
        Kernel("6.1-arm64", "bookworm", "6.1", ARM64),
        Kernel("6.12-arm64", "trixie", "6.12", ARM64),
    )
}
