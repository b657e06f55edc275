"""The words for hooks are the kernel's, one for each place that a program can be attached to."""

from __future__ import annotations

from bpfpin.spec import Hook
from bpfpin.uapi import AttachType


def test_every_attach_type_of_a_cgroup_has_its_hook() -> None:
    places = {one for one in AttachType if one.name.startswith("CGROUP_")}

    assert {hook.attach_type for hook in Hook if hook.is_cgroup} == places


def test_a_hook_is_typed_as_the_kernel_calls_it() -> None:
    assert Hook("tcx-ingress").attach_type is AttachType.TCX_INGRESS
    assert Hook("cgroup-udp4-sendmsg").attach_type is AttachType.CGROUP_UDP4_SENDMSG
    assert [hook.value for hook in Hook] == [hook.name.lower().replace("_", "-") for hook in Hook]


def test_classic_tc_alone_has_no_attach_type() -> None:
    assert {hook for hook in Hook if hook.attach_type is None} == {Hook.TC_INGRESS, Hook.TC_EGRESS}
