"""Functions of the kernel, read from files as the kernel writes them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from bpfpin.attach import kernel_functions
from bpfpin.attach.kernel_functions import (
    function_of_system_call,
    matching_functions,
    require_function,
)
from bpfpin.attach.kprobe import _Place
from bpfpin.attach.trace import _require_lsm
from bpfpin.choices import similar_of_many
from bpfpin.errors import (
    NotSupportedError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.objects.kernel import kallsyms

SYMBOLS = """\
ffffffff81000000 T _text
ffffffff81000010 T do_unlinkat
ffffffff81000020 t tcp_send.isra.0
ffffffff81000030 T tcp_sendmsg
ffffffff81000040 t twice
ffffffff81000050 t twice
ffffffff81000060 t some_of_two
ffffffff81000070 t some_of_two
ffffffff81000080 d tcp_sendfile
ffffffff81000090 T __x64_sys_bpf
ffffffff810000a0 T __x64_sys_openat
ffffffff810000b0 T __x64_sys_openat2
ffffffffc0000000 t nf_conntrack_in\t[nf_conntrack]
"""
TRACEABLE = """\
do_unlinkat
tcp_sendmsg
twice
twice
some_of_two
nf_conntrack_in [nf_conntrack]
"""
ADDRESSES = """\
ffffffff81000010 do_unlinkat
ffffffff81000030 tcp_sendmsg
ffffffff81000070 some_of_two
ffffffffc0000000 nf_conntrack_in [nf_conntrack]
"""


@pytest.fixture(autouse=True)
def tracefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel of x86-64 before Linux 6.5, which lists names alone."""
    symbols = tmp_path / "kallsyms"
    symbols.write_text(SYMBOLS)
    folder = tmp_path / "tracing"
    folder.mkdir()
    (folder / "available_filter_functions").write_text(TRACEABLE)
    monkeypatch.setattr(kallsyms, "KALLSYMS", symbols)
    monkeypatch.setattr(kernel_functions, "TRACEFS", (folder,))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return folder


def test_a_pattern_takes_the_functions_that_can_be_traced_by_address() -> None:
    assert matching_functions("tcp_*") == {0xFFFFFFFF81000030: "tcp_sendmsg"}
    assert matching_functions("do_unlink?t") == {0xFFFFFFFF81000010: "do_unlinkat"}
    assert list(matching_functions("nf_*")) == [0xFFFFFFFFC0000000]


def test_functions_of_one_name_are_taken_if_all_can_be_traced() -> None:
    assert list(matching_functions("t*wice")) == [0xFFFFFFFF81000040, 0xFFFFFFFF81000050]
    with pytest.raises(TargetNotFoundError):
        matching_functions("some_of_two")


def test_a_newer_kernel_says_which_of_one_name_can_be_traced(tracefs: Path) -> None:
    (tracefs / "available_filter_functions_addrs").write_text(ADDRESSES)

    assert matching_functions("some_*") == {0xFFFFFFFF81000070: "some_of_two"}


def test_characters_of_expressions_stand_for_themselves() -> None:
    with pytest.raises(TargetNotFoundError) as refused:
        matching_functions("tcp.sendmsg")
    assert "tcp_sendmsg" in refused.value.hint


def test_a_pattern_without_a_match_is_told_with_names_like_it() -> None:
    with pytest.raises(TargetNotFoundError, match="no function of this kernel matches") as refused:
        matching_functions("do_unlinks*")

    assert "near it: do_unlinkat" in refused.value.hint


def test_hidden_addresses_are_a_question_of_rights(tracefs: Path) -> None:
    hidden = ADDRESSES.replace("ffffffff81000010", "0000000000000000")
    (tracefs / "available_filter_functions_addrs").write_text(hidden)
    with pytest.raises(PermissionDeniedError) as refused:
        matching_functions("do_unlinkat")

    assert refused.value.missing == ("CAP_SYSLOG",)


def test_a_kernel_that_cannot_trace_functions_is_named(tracefs: Path) -> None:
    (tracefs / "available_filter_functions").unlink()
    with pytest.raises(NotSupportedError, match="available_filter_functions"):
        matching_functions("tcp_*")


def test_a_function_that_is_not_there_is_told_with_what_the_compiler_made_of_it() -> None:
    require_function("do_unlinkat")
    require_function("nf_conntrack_in", module="nf_conntrack")
    with pytest.raises(TargetNotFoundError) as changed:
        require_function("tcp_send")
    with pytest.raises(TargetNotFoundError, match="module nf_conntrack has no function"):
        require_function("do_unlinkat", module="nf_conntrack")

    assert changed.value.hint.startswith("near it: tcp_send.isra.0")


def test_a_system_call_is_a_function_of_the_architecture() -> None:
    assert function_of_system_call("openat") == "__x64_sys_openat"
    with pytest.raises(TargetNotFoundError, match="no system call 'opennat'") as refused:
        function_of_system_call("opennat")

    assert "openat" in refused.value.hint


def test_without_wrappers_a_system_call_has_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = kallsyms.KALLSYMS
    symbols.write_text(SYMBOLS.replace("__x64_sys_", "__se_sys_"))

    assert function_of_system_call("openat") == "__se_sys_openat"


def test_symbols_that_cannot_be_read_leave_the_question_to_the_kernel(tmp_path: Path) -> None:
    kallsyms.KALLSYMS.unlink()

    require_function("anything")


def test_names_like_one_of_very_many() -> None:
    names = [f"function_{number}" for number in range(100_000)] + ["do_nanosleep"]

    assert similar_of_many("do_nanoslep", names) == ["do_nanosleep"]
    assert similar_of_many("nanosleep", names) == ["do_nanosleep"]
    assert similar_of_many("nothing_at_all", names) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("do_exit", ("", "do_exit", 0)),
        ("do_exit+0x10", ("", "do_exit", 16)),
        ("do_exit+16", ("", "do_exit", 16)),
        ("nf_conntrack:nf_conntrack_in", ("nf_conntrack", "nf_conntrack_in", 0)),
        ("nf-tables:name.isra.0", ("nf-tables", "name.isra.0", 0)),
    ],
)
def test_a_place_is_a_function_with_an_offset(text: str, place: tuple[str, str, int]) -> None:
    parsed = _Place.parse(text, at_return=False)

    assert (parsed.module, parsed.function, parsed.offset) == place


@pytest.mark.parametrize("text", ["", "do exit", "do_exit+", "+0x10", "do_exit+0xg", "a:b:c"])
def test_other_texts_are_no_place(text: str) -> None:
    with pytest.raises(UsageError, match="is not a function"):
        _Place.parse(text, at_return=False)


def test_a_return_has_no_offset() -> None:
    with pytest.raises(UsageError, match="has an offset") as refused:
        _Place.parse("do_exit+4", at_return=True)

    assert refused.value.hint == "name the function alone: do_exit"


def test_a_kernel_that_runs_no_lsm_programs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = tmp_path / "lsm"
    monkeypatch.setattr("bpfpin.attach.trace.ACTIVE_MODULES", active)
    _require_lsm()  # securityfs is not mounted
    active.write_text("lockdown,bpf\n")
    _require_lsm()
    active.write_text("lockdown,yama\n")
    with pytest.raises(NotSupportedError) as refused:
        _require_lsm()

    assert "lsm=lockdown,yama,bpf" in refused.value.hint
