"""Which answers of programs let a packet through, and which way a hook sees packets."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from bpfpin.sets.lockout.packets import Flow, Segment
from bpfpin.sets.lockout.trial_run import TrialTarget
from bpfpin.sets.lockout.ways import Danger, Way
from bpfpin.spec import Hook

FLOW = Flow(ip_address("192.0.2.1"), 22, ip_address("198.51.100.9"), 50000)
DANGER = Danger(("your ssh session",), (Way(Segment(vlans=(7,), has_neighbours=False), FLOW),))


@pytest.mark.parametrize(
    ("hooks", "passing", "stopping"),
    [
        ([Hook.XDP], [2], [0, 1, 3, 4, 5, -1]),
        ([Hook.TC_INGRESS, Hook.TC_EGRESS], [-1, 0, 1, 3, 99], [2, 4, 7, 8]),
        ([Hook.TCX_INGRESS, Hook.TCX_EGRESS], [-1, 0, 1, 3, 4, 8, 99], [2, 7]),
        ([Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER], [-1, 0], [1, 2, 3, 7]),
        ([Hook.CGROUP_INET_INGRESS, Hook.CGROUP_INET_EGRESS], [1, 3], [0, 2]),
    ],
)
def test_what_lets_a_packet_through_is_a_matter_of_the_hook(
    hooks: list[Hook], passing: list[int], stopping: list[int]
) -> None:
    for hook in hooks:
        packets = hook.traits.packets
        assert packets is not None
        assert [packets.passes(answer) for answer in passing] == [True] * len(passing)
        assert [packets.passes(answer) for answer in stopping] == [False] * len(stopping)


@pytest.mark.parametrize(
    ("hook", "is_in"),
    [
        (Hook.XDP, True),
        (Hook.TC_INGRESS, True),
        (Hook.TCX_EGRESS, False),
        (Hook.NETKIT_PEER, True),
        (Hook.NETKIT_PRIMARY, False),
        (Hook.CGROUP_INET_INGRESS, True),
        (Hook.CGROUP_INET_EGRESS, False),
    ],
)
def test_packets_come_in_or_go_out(hook: Hook, *, is_in: bool) -> None:
    packets = TrialTarget("p", hook, "eth0", DANGER).packets()
    start = "from 198.51.100.9 port 50000" if is_in else "from 192.0.2.1 port 22"

    assert all(start in one.what for one in packets)


def test_only_xdp_may_see_the_tags_of_vlans() -> None:
    kinds = {
        hook: {one.data[12:14].hex() for one in TrialTarget("p", hook, "eth0", DANGER).packets()}
        for hook in (Hook.XDP, Hook.TCX_INGRESS)
    }

    assert kinds == {Hook.XDP: {"8100", "0800"}, Hook.TCX_INGRESS: {"0800"}}


@pytest.mark.parametrize("hook", [Hook.CGROUP_INET4_CONNECT, Hook.CGROUP_SOCK_OPS])
def test_a_hook_that_sees_no_packets_is_told(hook: Hook) -> None:
    assert hook.value in TrialTarget("p", hook, "/web", DANGER).why_not
