"""What section names and the words after `--type` mean."""

from __future__ import annotations

import re

import pytest

from bpfpin.errors import UsageError
from bpfpin.objfile.elf.section import ROWS, kind_by_word, program_kind, words
from bpfpin.spec import Hook
from bpfpin.uapi import AttachType, ProgramFlag, ProgramType


@pytest.mark.parametrize(
    ("section", "program_type", "attach_type", "hook"),
    [
        ("xdp", ProgramType.XDP, AttachType.XDP, Hook.XDP),
        ("xdp/devmap", ProgramType.XDP, AttachType.XDP_DEVMAP, None),
        ("tc/ingress", ProgramType.SCHED_CLS, AttachType.TCX_INGRESS, Hook.TCX_INGRESS),
        ("tcx/egress", ProgramType.SCHED_CLS, AttachType.TCX_EGRESS, Hook.TCX_EGRESS),
        ("netkit/peer", ProgramType.SCHED_CLS, AttachType.NETKIT_PEER, Hook.NETKIT_PEER),
        ("tc", ProgramType.SCHED_CLS, None, None),
        ("classifier", ProgramType.SCHED_CLS, None, None),
        ("action", ProgramType.SCHED_ACT, None, None),
        ("socket", ProgramType.SOCKET_FILTER, None, None),
        (
            "cgroup_skb/ingress",
            ProgramType.CGROUP_SKB,
            AttachType.CGROUP_INET_INGRESS,
            Hook.CGROUP_INET_INGRESS,
        ),
        ("cgroup/skb", ProgramType.CGROUP_SKB, None, None),
        (
            "cgroup/sock",
            ProgramType.CGROUP_SOCK,
            AttachType.CGROUP_INET_SOCK_CREATE,
            Hook.CGROUP_INET_SOCK_CREATE,
        ),
        (
            "cgroup/connect4",
            ProgramType.CGROUP_SOCK_ADDR,
            AttachType.CGROUP_INET4_CONNECT,
            Hook.CGROUP_INET4_CONNECT,
        ),
        ("sk_skb/verdict", ProgramType.SK_SKB, AttachType.SK_SKB_VERDICT, Hook.SK_SKB_VERDICT),
        ("netfilter", ProgramType.NETFILTER, AttachType.NETFILTER, Hook.NETFILTER),
    ],
)
def test_a_known_section_names_type_place_and_hook(
    section: str, program_type: ProgramType, attach_type: AttachType | None, hook: Hook | None
) -> None:
    kind = program_kind(section)

    assert kind is not None
    assert (kind.type, kind.attach_type, kind.hook) == (program_type, attach_type, hook)
    assert kind.expected_attach_type == attach_type
    assert kind.note == ""


def test_every_name_of_the_table_is_found_without_a_note() -> None:
    for name in ROWS:
        kind = program_kind(name)

        assert kind == ROWS[name].kind


def test_the_rest_of_a_tracing_section_is_where_it_attaches() -> None:
    kind = program_kind("tracepoint/syscalls/sys_enter_openat")

    assert kind is not None
    assert (kind.type, kind.attach_to) == (ProgramType.TRACEPOINT, "syscalls/sys_enter_openat")


def test_a_tracing_section_may_name_no_place() -> None:
    kind = program_kind("fentry")

    assert kind is not None
    assert (kind.type, kind.attach_to) == (ProgramType.TRACING, "")


@pytest.mark.parametrize(
    ("section", "flags"),
    [
        ("xdp.frags", ProgramFlag.XDP_HAS_FRAGS),
        ("xdp.frags/devmap", ProgramFlag.XDP_HAS_FRAGS),
        ("lsm.s/file_open", ProgramFlag.SLEEPABLE),
        ("syscall", ProgramFlag.SLEEPABLE),
        ("xdp", ProgramFlag(0)),
    ],
)
def test_a_section_may_ask_for_program_flags(section: str, flags: ProgramFlag) -> None:
    kind = program_kind(section)

    assert kind is not None
    assert kind.program_flags == flags


@pytest.mark.parametrize(
    ("section", "program_type", "start"),
    [
        ("xdp_stats1", ProgramType.XDP, "'xdp'"),
        ("xdp_pass", ProgramType.XDP, "'xdp'"),
        ("xdp/dropper", ProgramType.XDP, "'xdp'"),
        ("tc_ingress", ProgramType.SCHED_CLS, "'tc'"),
        ("classifier/egress", ProgramType.SCHED_CLS, "'classifier'"),
        ("socket1", ProgramType.SOCKET_FILTER, "'socket'"),
        ("sk_skb/stream_parser_x", ProgramType.SK_SKB, "'sk_skb/stream_parser'"),
        ("xdp_devmap/egress", ProgramType.XDP, "'xdp_devmap'"),
    ],
)
def test_a_name_of_old_is_read_as_what_it_starts_with_and_told(
    section: str, program_type: ProgramType, start: str
) -> None:
    kind = program_kind(section)

    assert kind is not None
    assert kind.type == program_type
    assert section in kind.note
    assert start in kind.note


@pytest.mark.parametrize(
    "section",
    [".text", "prog", "my_filter", "tcp_monitor", "kprobes", "1/", "/", "", "?", "99/99/1"],
)
def test_a_free_name_says_nothing(section: str) -> None:
    assert program_kind(section) is None


def test_a_question_mark_makes_a_program_optional() -> None:
    kind = program_kind("?kprobe/do_exit")

    assert kind is not None
    assert kind.is_optional
    assert kind.attach_to == "do_exit"


@pytest.mark.parametrize(
    ("section", "slot"),
    [("1/0", (1, 0)), ("0xabccba/0x10", (0xABCCBA, 16)), ("010/7", (8, 7))],
)
def test_iproute2s_tail_call_sections_name_array_and_index(
    section: str, slot: tuple[int, int]
) -> None:
    kind = program_kind(section)

    assert kind is not None
    assert kind.tail_call == slot
    assert kind.note


@pytest.mark.parametrize("section", ["09/1", "1/0x100000000", "99999999999/1"])
def test_numbers_that_c_would_not_read_are_a_free_name(section: str) -> None:
    assert program_kind(section) is None


@pytest.mark.parametrize(
    ("word", "program_type"),
    [
        ("xdp", ProgramType.XDP),
        ("tc", ProgramType.SCHED_CLS),
        ("sched_cls", ProgramType.SCHED_CLS),
        ("classifier", ProgramType.SCHED_CLS),
        ("cgroup/skb", ProgramType.CGROUP_SKB),
        ("socket_filter", ProgramType.SOCKET_FILTER),
    ],
)
def test_a_word_is_a_section_name_or_a_program_type(word: str, program_type: ProgramType) -> None:
    assert kind_by_word(word).type == program_type


def test_the_word_xdp_has_the_hook_of_the_section() -> None:
    assert kind_by_word("xdp").hook == Hook.XDP


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("xdpp", {"xdp"}),
        ("zzz", {"xdp", "tc", "socket", "syscall"}),
        ("unspec", {"xdp", "tc", "socket", "syscall"}),
        ("sched_clss", {"sched_cls"}),
    ],
)
def test_an_unknown_word_is_a_usage_error_that_names_words(word: str, shown: set[str]) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        kind_by_word(word)

    named = set(re.split("[:;, ]+", caught.value.message))
    assert shown <= named
    assert named & words().keys() >= shown
