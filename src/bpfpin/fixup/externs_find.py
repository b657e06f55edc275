"""Finds what the kernel has for the externs of an object; the kernel itself is given."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import BtfType, Function, Var
from bpfpin.errors import BpfError, NotSupportedError, ObjectFileError
from bpfpin.externs import KCONFIG, ConfigForm, ExternKind, ExternSpec
from bpfpin.fixup.core_match import Comparison
from bpfpin.fixup.externs import Answer

_LINE = re.compile(rb"^(CONFIG_\w+)=(.*)$", re.MULTILINE | re.ASCII)
_NUMBER = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]{1,64}|0[0-7]{0,64}|[1-9][0-9]{0,64})", re.ASCII)
_TRISTATE = {"n": 0, "y": 1, "m": 2}
_KINDS: dict[ExternKind, type[BtfType]] = {
    ExternKind.KFUNC: Function,
    ExternKind.KSYM_TYPED: Var,
}
_WORDS = {
    ExternKind.KCONFIG: "value of the configuration",
    ExternKind.KSYM: "symbol",
    ExternKind.KSYM_TYPED: "variable",
    ExternKind.KFUNC: "function",
}
_STEM = 6  # what names must share to be proposed for one another
_PROPOSED = 3


# A kernel's configuration as text, and its values as the bytes of an object's variables.
#
# The forms are those of Kconfig's `.config` and the rules libbpf's: `y`, `n` and `m` fill a bool,
# an `enum libbpf_tristate` or a char, a number an integer that has room for it, a text in quotes
# an array of char.


def values_in(text: bytes, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Return what the configuration *text* says of the *wanted* names, or of all of them.

    Where it names one twice, the last word counts.
    """
    return {
        name: value.decode(errors="replace").strip()
        for name, value in ((found[1].decode(), found[2]) for found in _LINE.finditer(text))
        if wanted is None or name in wanted
    }


def encoded(extern: ExternSpec, text: str) -> bytes:
    """Return the bytes that *text* gives the variable; a longer text is cut, its NUL kept.

    `ObjectFileError` if it does not fit the variable's type.
    """
    form = extern.config_form
    if text in _TRISTATE:
        number = _of_tristate(form, text)
    elif text[:1] == '"':
        if form is ConfigForm.TEXT and len(text) > 1 and text[-1] == '"':
            return text[1:-1].encode()[: extern.size - 1].ljust(extern.size, b"\0")
        number = None
    else:
        number = _of_number(extern, form, text)
    if number is None:
        raise ObjectFileError(
            f"{extern.name} is {text} in this kernel, which does not fit {extern.c_source}",
            section=KCONFIG,
            symbol=extern.name,
        )
    return number.to_bytes(extern.size, "little")


def _of_tristate(form: ConfigForm | None, text: str) -> int | None:
    if form is ConfigForm.CHAR:
        return ord(text)
    if form is ConfigForm.TRISTATE or (form is ConfigForm.BOOL and text != "m"):
        return _TRISTATE[text]
    return None


def _of_number(extern: ExternSpec, form: ConfigForm | None, text: str) -> int | None:
    """Return the number as the unsigned one of the same bits; None if the variable is too small."""
    found = _NUMBER.fullmatch(text)
    if found is None or form not in (ConfigForm.NUMBER, ConfigForm.CHAR, ConfigForm.BOOL):
        return None
    digits = found[2]
    is_octal = len(digits) > 1 and digits[1] not in "xX" and digits[0] == "0"
    number = int(digits, 8 if is_octal else 0) * (-1 if found[1] == "-" else 1)
    bits = 1 if form is ConfigForm.BOOL else 8 * extern.size
    # Of eight bytes the kernel writes addresses, which a signed variable may hold as well.
    is_signed = extern.is_signed and bits < 64
    low = -(1 << (bits - 1)) if is_signed or bits == 64 else 0
    high = 1 << (bits - 1 if is_signed else bits)
    return number % (1 << 8 * extern.size) if low <= number < high else None


@dataclass(frozen=True)
class ExternSources:
    """The kernel; nothing of it is asked before an extern needs it.

    *config* returns text by name, of those that it has; *addresses* the same for symbols. *types*
    yields the kernel's types under an empty name, then those of its modules.
    """

    config: Callable[[Collection[str]], Mapping[str, str]]
    addresses: Callable[[Collection[str]], Mapping[str, int]]
    types: Callable[[], Iterable[tuple[str, Btf]]]


def answers(externs: Sequence[ExternSpec], sources: ExternSources) -> tuple[Answer, ...]:
    """Return what the kernel has for each of *externs*, in their order.

    Nothing is raised for what it lacks: an answer carries its error.
    """
    found: dict[str, Answer] = {}
    for kind in ExternKind:
        of_kind = [each for each in externs if each.kind is kind]
        try:
            found |= {each.extern.name: each for each in _ask(kind, of_kind, sources)}
        except BpfError as error:
            found |= {each.name: Answer(each, error=error) for each in of_kind}
    return tuple(found[each.name] for each in externs)


def _ask(
    kind: ExternKind, externs: Sequence[ExternSpec], sources: ExternSources
) -> Iterator[Answer]:
    names = {each.kernel_name for each in externs}
    if not names:
        return
    if kind is ExternKind.KCONFIG:
        texts = sources.config(names)
        yield from (_configured(each, texts.get(each.name)) for each in externs)
    elif kind is ExternKind.KSYM:
        known = sources.addresses(names)
        yield from (_addressed(each, known.get(each.kernel_name)) for each in externs)
    else:
        yield from (_typed(each, sources.types) for each in externs)


def _configured(extern: ExternSpec, text: str | None) -> Answer:
    if text is None:
        return _absent(extern)
    try:
        return Answer(extern, contents=encoded(extern, text))
    except BpfError as error:
        return Answer(extern, error=error)


def _addressed(extern: ExternSpec, address: int | None) -> Answer:
    return _absent(extern) if address is None else Answer(extern, number=address)


def _typed(extern: ExternSpec, types: Callable[[], Iterable[tuple[str, Btf]]]) -> Answer:
    kind = _KINDS[extern.kind]
    tables = []
    for module, btf in types():
        type_id = btf.find(extern.kernel_name, kind)
        if type_id is not None:
            return _compared(extern, module, btf, type_id)
        tables.append(btf)
    return _absent(extern, proposed=_near(extern.kernel_name, kind, tables))


def _compared(extern: ExternSpec, module: str, btf: Btf, type_id: int) -> Answer:
    held = btf[type_id]
    its_type = held.type_id if isinstance(held, Function | Var) else type_id
    theirs = its_type if isinstance(held, Function) else btf.strip(its_type)
    if Comparison(extern.type.btf, btf).fits(extern.type.id, theirs):
        return Answer(extern, number=type_id, module=module)
    if extern.is_weak:
        return Answer(extern)
    there = ExternSpec(extern.kernel_name, extern.kind, TypeRef(btf, theirs)).c_source
    return Answer(
        extern,
        error=NotSupportedError(
            f"the object asks for {extern.c_source}, and the kernel has {there}",
            feature=extern.name,
            hint="declare it as the kernel has it (bpftool btf dump), or weak",
        ),
    )


def _absent(extern: ExternSpec, *, proposed: Sequence[str] = ()) -> Answer:
    if extern.is_weak:
        return Answer(extern)
    near = f"; there are: {', '.join(proposed)}" if proposed else ""
    return Answer(
        extern,
        error=NotSupportedError(
            f"the object asks for {_WORDS[extern.kind]} {extern.kernel_name}, which this kernel "
            f"does not have{near}",
            feature=extern.kernel_name,
            hint="declare it __weak if the program can do without",
        ),
    )


def _near(name: str, kind: type[BtfType], tables: Iterable[Btf]) -> list[str]:
    """Return names much like *name* that are there; among those that begin alike."""
    stem = name[:_STEM].encode()
    alike = [
        (text.decode(errors="replace"), btf)
        for btf in tables
        for text in btf.strings.split(b"\0")
        if text.startswith(stem)
    ]
    close = difflib.get_close_matches(name, [text for text, _ in alike], n=4 * _PROPOSED)
    found = [text for text in close if any(btf.find(text, kind) for _, btf in alike)]
    return found[:_PROPOSED]
