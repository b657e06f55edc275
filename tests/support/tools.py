"""Tools of others that tests hold us against: bpftool, clang, strace, ping, xdp-loader."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGES = {
    "ping": "iputils-ping",
    "ip": "iproute2",
    "tc": "iproute2",
    "xdp-loader": "xdp-tools",
    "xdp-filter": "xdp-tools",
    "libbpf": "libbpf-dev",
    "promtool": "prometheus",
}


def need(*tools: str) -> None:
    """Skip the test unless *tools* are installed; where CI promises them, fail."""
    _need(tool for tool in tools if shutil.which(tool) is None)


def need_libbpf() -> None:
    """Skip the test unless C programs can be compiled with libbpf; where CI promises it, fail."""
    need("gcc")
    _need([] if Path("/usr/include/bpf/bpf.h").exists() else ["libbpf"])


def _need(missing: Iterable[str]) -> None:
    if not (tools := list(missing)):
        return
    packages = " ".join(PACKAGES.get(tool, tool) for tool in tools)
    if os.environ.get("CI"):
        pytest.fail(f"CI must install: {packages}")
    pytest.skip(f"needs {', '.join(tools)}: apt install {packages}")
