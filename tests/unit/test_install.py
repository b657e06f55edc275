"""The lines of the README that install bpfpin, as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("src", "pyproject.toml", "README.md", "LICENSE")


@pytest.mark.slow
def test_they_work_for_a_python_that_its_distribution_manages(tmp_path: Path) -> None:
    """With other folders than /opt and /usr/local, in a copy of the checkout."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    section = (ROOT / "README.md").read_text().partition("## Install")[2]
    lines = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
    script = lines.replace("/opt/", f"{tmp_path}/opt-").replace("/usr/local/bin", str(tmp_path))
    command = ["bash", "-e", "-c", f"{script}\n{tmp_path}/bpfpin --version"]
    completed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)

    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1].startswith("bpfpin ")
