"""The generated names and numbers, against numbers known from elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bpfpin import uapi
from bpfpin.uapi_helpers import FuncId

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gen_uapi.py"


def check(script: Path) -> subprocess.CompletedProcess[str]:
    """Run a generator with --check."""
    command = [sys.executable, str(script), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_committed_file_is_what_the_headers_give() -> None:
    answer = check(SCRIPT)

    assert (answer.returncode, answer.stderr) == (0, "")


def test_an_edited_file_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / SCRIPT.name
    edited = tmp_path / "src" / "bpfpin" / "uapi.py"
    script.parent.mkdir()
    edited.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    shutil.copy(ROOT / "src/bpfpin/uapi_helpers.py", edited.parent)
    edited.write_text((ROOT / "src/bpfpin/uapi.py").read_text().replace("HASH = 1", "HASH = 2"))

    answer = check(script)

    assert answer.returncode == 1
    assert "run: python scripts/gen_uapi.py" in answer.stderr


@pytest.mark.parametrize(
    ("member", "number"),
    [
        (uapi.Cmd.LINK_UPDATE, 29),
        (uapi.MapType.PERCPU_ARRAY, 6),
        (uapi.ProgramType.XDP, 6),
        (uapi.AttachType.TCX_INGRESS, 46),
        (uapi.LinkType.XDP, 6),
        (uapi.BtfKind.ENUM64, 19),
        (uapi.CoreRelocationKind.TYPE_MATCHES, 12),
        (FuncId.map_lookup_elem, 1),
        (FuncId.cgrp_storage_delete, 211),
        (uapi.TcxAction.TCX_NEXT, -1),
        (uapi.PseudoSource.MAP_VALUE, 2),
        (uapi.UpdateFlag.ANY, 0),
        (uapi.AttachFlag.LINK, 1 << 13),
        (uapi.XdpFlag.REPLACE, 16),
        (uapi.OBJ_NAME_LEN, 16),
        (uapi.BTF_MAGIC, 0xEB9F),
    ],
)
def test_numbers_are_those_of_the_kernel(member: int, number: int) -> None:
    assert member == number


def test_flags_combine() -> None:
    flags = uapi.MapFlag.MMAPABLE | uapi.MapFlag.RDONLY_PROG

    assert flags == 0x480


def test_a_name_that_the_kernel_deprecates_gives_way_to_its_successor() -> None:
    """Linux has both names for number 19."""
    assert uapi.MapType(19).name == "CGROUP_STORAGE"


def test_verdicts_keep_the_name_that_users_know() -> None:
    assert [action.name for action in uapi.XdpAction] == [
        "XDP_ABORTED",
        "XDP_DROP",
        "XDP_PASS",
        "XDP_TX",
        "XDP_REDIRECT",
    ]


def test_no_bound_of_an_enum_is_taken_for_a_member() -> None:
    assert max(uapi.Cmd) < 100
    assert not [kind for kind in uapi.BtfKind if "MAX" in kind.name]
