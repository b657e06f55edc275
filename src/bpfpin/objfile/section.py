"""What a section's name, or a word of the user, says about the programs that it stands for."""

from __future__ import annotations

import dataclasses
import difflib
import re

from bpfpin.errors import UsageError
from bpfpin.objfile.section_table import OLD_PREFIXES, ROWS, ProgramKind, kind_of
from bpfpin.uapi import ProgramType

__all__ = ["ProgramKind", "kind_by_word", "program_kind", "words"]

_OLD_LONGEST_FIRST = sorted(OLD_PREFIXES, key=len, reverse=True)
_TAIL_CALL = re.compile(r"(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})/(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})")
_SHOWN_WORDS = "xdp, tc, classifier, action, tcx/ingress, tcx/egress, socket, cgroup/skb, syscall"


def program_kind(section: str) -> ProgramKind | None:
    """Return what a program in *section* is, None where the name says nothing.

    Known are libbpf's names (`tcx/ingress`, `kprobe/do_exit`), names that libbpf before 1.0 took by
    their beginning (`xdp_stats1`), and iproute2's `ID/KEY` of a tail call, which leaves the type
    open; `note` tells of the last two. A `?` before the name makes the program optional, as libbpf
    has it.
    """
    name = section.removeprefix("?")
    kind = _known(name) or _by_beginning(name) or _tail_call(name)
    if kind is None or name == section:
        return kind
    return dataclasses.replace(kind, is_optional=True)


def kind_by_word(word: str) -> ProgramKind:
    """Return what the user's *word* (`xdp`, `sched_cls`, `cgroup/skb`) stands for.

    Words are section names and the kernel's program types in lower case; `UsageError` else.
    """
    known = words()
    if word in known:
        return known[word]
    near = difflib.get_close_matches(word, known, n=3)
    raise UsageError(
        f"no program type {word!r}; "
        + (f"near it: {', '.join(near)}" if near else f"some that are: {_SHOWN_WORDS}"),
        hint=f"program types: {', '.join(known)}",
    )


def words() -> dict[str, ProgramKind]:
    """Return all words that `kind_by_word` takes, each with its kind."""
    types = {kind.name.lower(): kind_of(kind) for kind in ProgramType if kind != ProgramType.UNSPEC}
    return types | {name: row.kind for name, row in ROWS.items()}


def _known(name: str) -> ProgramKind | None:
    if name in ROWS:
        return ROWS[name].kind
    beginning, slash, rest = name.partition("/")
    row = ROWS.get(beginning)
    if row is None or not slash or not row.takes_rest:
        return None
    return dataclasses.replace(row.kind, attach_to=rest)


def _by_beginning(name: str) -> ProgramKind | None:
    for prefix in _OLD_LONGEST_FIRST:
        if name.startswith(prefix):
            note = f"section {name!r} is read as {prefix.rstrip('_-/')!r}, which it starts with"
            return dataclasses.replace(OLD_PREFIXES[prefix], note=note)
    return None


def _tail_call(name: str) -> ProgramKind | None:
    match = _TAIL_CALL.fullmatch(name)
    if match is None:
        return None
    array_id, index = (_number(text) for text in match.groups())
    if array_id is None or index is None:
        return None
    note = f"section {name!r} fills index {index} of the program array with id {array_id}"
    return ProgramKind(ProgramType.UNSPEC, note=note, tail_call=(array_id, index))


def _number(text: str) -> int | None:
    """Read *text* as C's %i does: `0x` is hexadecimal, a leading zero octal."""
    is_octal = text.startswith("0") and text.isdigit()
    try:
        value = int(text, 8 if is_octal else 0)
    except ValueError:
        return None
    return value if value < 1 << 32 else None
