"""Tools of others that tests hold us against: bpftool, clang, strace, ping."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {"ping": "iputils-ping", "ip": "iproute2"}


def need(*tools: str) -> None:
    """Skip the test unless *tools* are installed; where CI promises them, fail."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    packages = " ".join(PACKAGES.get(tool, tool) for tool in missing)
    if os.environ.get("CI"):
        pytest.fail(f"CI must install: {packages}")
    pytest.skip(f"needs {', '.join(missing)}: apt install {packages}")
