"""netkit: what is answered where a device, or the kernel, has no such hook."""

from __future__ import annotations

import errno

import pytest

from bpfpin.attach.netkit import attach_netkit
from bpfpin.errors import AttachError, NotSupportedError, WrongHookError
from bpfpin.spec import Hook
from bpfpin.uapi import Cmd
from support.hooks import idle, refuse, without_hook


@pytest.mark.parametrize("hook", [Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER])
def test_a_device_of_another_kind_has_no_netkit_hook(hook: Hook) -> None:
    """A kernel with netkit says it of the device (ENXIO), one without of the attach type."""
    with idle() as program, pytest.raises(NotSupportedError):
        attach_netkit(program, "lo", hook)


def test_a_kernel_without_netkit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with idle() as program, monkeypatch.context() as old_kernel:
        without_hook(old_kernel)
        with pytest.raises(NotSupportedError, match="has no netkit-peer") as refused:
            attach_netkit(program, "lo", Hook.NETKIT_PEER)

    assert refused.value.since == "6.7"


def test_the_peer_of_a_pair_is_told_from_its_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    with idle() as program, monkeypatch.context() as kernel:
        refuse(kernel, errno.EACCES, Cmd.LINK_CREATE)
        with pytest.raises(AttachError, match="lo is the peer of a netkit pair") as refused:
            attach_netkit(program, "lo", Hook.NETKIT_PRIMARY)

    assert "primary device" in refused.value.hint


def test_a_hook_of_tcx_is_refused() -> None:
    with idle() as program, pytest.raises(WrongHookError, match="has no hook tcx-ingress"):
        attach_netkit(program, "lo", Hook.TCX_INGRESS)
