"""C with many CO-RE relocations: questions about fields of the running kernel's structures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from bpfpin.btf.btf import Btf
from bpfpin.btf.layout import MemberLayout, members
from bpfpin.btf.types import Array, Enum, Int, Pointer, Struct

BYTE_OFFSET, BYTE_SIZE, EXISTS, SIGNED, LSHIFT_U64, RSHIFT_U64 = range(6)

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")
_KEYWORDS = {"auto", "default", "enum", "inline", "register", "restrict", "signed", "short"}
_MEMBERS = 8  # of each structure
_START = """
#define SEC(name) __attribute__((section(name), used))
#define KEEP(expression) (*(volatile unsigned long long *)&kept = (expression))
#define FIELD(type, member, question) \\
	__builtin_preserve_field_info(((type *)0)->member, question)
char _license[] SEC("license") = "GPL";
"""


def source(btf: Btf, *, structures: int, every: int = 1) -> str:
    """Return a source with one XDP program about so many structures, *every* so many-th of *btf*.

    The local structures have the members in other order and with other sizes; unnamed structures
    around them are left out.
    """
    chosen = list(islice(_structures(btf), 0, structures * every, every))
    declarations = [_declaration(btf, name, found) for name, found in chosen]
    questions = [
        f"\tKEEP(FIELD(struct {name}, {member.name}, {question}));"
        for name, found in chosen
        for member in found
        for question in _questions(btf, member)
    ]
    body = "\n".join(["\tunsigned long long kept;", *questions, "\treturn 2;"])
    program = f'SEC("xdp") int ask(void *context)\n{{\n{body}\n}}\n'
    return "\n".join([_START, *declarations, program])


def _structures(btf: Btf) -> Iterator[tuple[str, list[MemberLayout]]]:
    kinds = ((type_id, btf[type_id]) for type_id in btf.ids())
    found = [(type_id, kind) for type_id, kind in kinds if isinstance(kind, Struct) and kind.name]
    names = Counter(kind.name for _, kind in found)
    for type_id, kind in found:
        usable = [each for each in members(btf, type_id, flatten=True) if _c_type(btf, each)]
        usable = [each for each in usable if _is_plain(each.name)][:_MEMBERS]
        if names[kind.name] == 1 and usable and _is_plain(kind.name):
            yield kind.name, usable


def _is_plain(name: str) -> bool:
    return bool(_IDENTIFIER.fullmatch(name)) and name not in _KEYWORDS and "___" not in name


def _declaration(btf: Btf, name: str, found: list[MemberLayout]) -> str:
    lines = [f"\t{_c_type(btf, each).format(each.name)};" for each in reversed(found)]
    return "\n".join([f"struct {name} {{", *lines, "} __attribute__((preserve_access_index));"])


def _c_type(btf: Btf, member: MemberLayout) -> str:
    """Return the local type of a member, of other size than the kernel's; "" if it has none."""
    kind = btf[btf.strip(member.type_id)]
    if member.bitfield_size:
        return "unsigned char {} : 1"  # clang 14 cannot answer for many a longer one
    if isinstance(kind, Array):
        return "unsigned char {}[3]" if isinstance(btf[btf.strip(kind.element_id)], Int) else ""
    if isinstance(kind, Pointer):
        return "void *{}"
    return "short {}" if isinstance(kind, Int | Enum) else ""


def _questions(btf: Btf, member: MemberLayout) -> tuple[int, ...]:
    kind = btf[btf.strip(member.type_id)]
    if isinstance(kind, Enum):
        return (EXISTS,)  # no integer stands for it
    sizes = (BYTE_OFFSET, BYTE_SIZE, EXISTS)
    # Compilers refuse to be asked for sign and shifts of anything but numbers.
    return (*sizes, SIGNED, LSHIFT_U64, RSHIFT_U64) if isinstance(kind, Int) else sizes
