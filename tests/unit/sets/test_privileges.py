"""The privileges of a job are asked for before its first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.errors import PermissionDeniedError
from bpfpin.sets.find import require_attach
from bpfpin.syscall import capability
from bpfpin.syscall.capability import Capability

BPF, NET, ADMIN = Capability.CAP_BPF, Capability.CAP_NET_ADMIN, Capability.CAP_SYS_ADMIN


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says which capabilities this thread has, none at first."""
    status, uid_map = tmp_path / "status", tmp_path / "uid_map"
    uid_map.write_text(" ".join(capability.WHOLE_UID_MAP))
    monkeypatch.setattr(capability, "STATUS", status)
    monkeypatch.setattr(capability, "UID_MAP", uid_map)
    hold(status)
    return status


def hold(status: Path, *capabilities: Capability) -> None:
    mask = sum(1 << one for one in capabilities)
    status.write_text(f"Name:\tbpfpin\nCapEff:\t{mask:016x}\n")


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        ((), ("CAP_BPF", "CAP_NET_ADMIN")),
        ((BPF,), ("CAP_NET_ADMIN",)),
        ((NET,), ("CAP_BPF",)),
    ],
)
def test_what_is_missing_is_named(
    held: Path, capabilities: tuple[Capability, ...], missing: tuple[str, ...]
) -> None:
    hold(held, *capabilities)
    with pytest.raises(PermissionDeniedError) as caught:
        require_attach("loading a program on lab0")

    assert caught.value.missing == missing
    assert str(caught.value) == f"loading a program on lab0 needs {' and '.join(missing)}"


@pytest.mark.parametrize("capabilities", [(BPF, NET), (ADMIN,)])
def test_enough_is_enough(held: Path, capabilities: tuple[Capability, ...]) -> None:
    hold(held, *capabilities)

    require_attach("loading a program on lab0")


def test_root_of_a_container_of_its_own_users_is_not_enough(held: Path) -> None:
    hold(held, *Capability)
    held.with_name("uid_map").write_text("0 100000 65536")

    with pytest.raises(PermissionDeniedError, match="CAP_BPF and CAP_NET_ADMIN"):
        require_attach("loading a program on lab0")
