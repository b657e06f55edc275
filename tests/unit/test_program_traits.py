"""The table of program types: a row for each, and rows that agree with the hooks."""

from __future__ import annotations

from bpfpin.hooks import Hook, PacketForm
from bpfpin.program_traits import PROGRAM_TRAITS, RunInput, traits_of_program
from bpfpin.uapi import ProgramType, XdpAction

FUTURE = 1000


def those(trait: str) -> set[ProgramType]:
    return {kind for kind in ProgramType if getattr(traits_of_program(kind), trait)}


def test_every_type_has_a_row() -> None:
    assert set(PROGRAM_TRAITS) == set(ProgramType)


def test_a_type_of_a_newer_kernel_has_the_row_of_an_unknown_one() -> None:
    assert traits_of_program(FUTURE) == traits_of_program(ProgramType.UNSPEC)


def test_types_that_load_with_cap_bpf_alone_are_those_in_neither_list_of_the_kernel() -> None:
    assert set(ProgramType) - those("needs_net_admin") - those("needs_perfmon") == {
        ProgramType.SOCKET_FILTER,
        ProgramType.CGROUP_SKB,
        ProgramType.SK_REUSEPORT,
        ProgramType.SK_LOOKUP,
        ProgramType.SYSCALL,
    }
    assert those("needs_net_admin") & those("needs_perfmon") == {ProgramType.EXT}


def test_programs_of_hooks_that_see_packets_run_on_packets() -> None:
    with_packets = {
        hook.traits.program_types[0]
        for hook in Hook
        if hook.traits.packets is not None and hook.traits.packets.form is not PacketForm.OWN
    }

    assert with_packets
    assert all(traits_of_program(kind).test_run is RunInput.PACKET for kind in with_packets)


def test_each_xdp_action_has_its_name() -> None:
    assert traits_of_program(ProgramType.XDP).verdicts == {
        int(action): action.name for action in XdpAction
    }
