"""Finds what the kernel has for the externs of an object; the kernel itself is given."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import BtfType, Function, Variable
from bpfpin.errors import BpfError, NotSupportedError
from bpfpin.externs import ExternKind, ExternSpec
from bpfpin.fixup.core_match import Comparison
from bpfpin.fixup.externs import Answer
from bpfpin.fixup.kernel_config import encoded

_KINDS: dict[ExternKind, type[BtfType]] = {
    ExternKind.KFUNC: Function,
    ExternKind.KSYM_TYPED: Variable,
}
_WORDS = {
    ExternKind.KCONFIG: "value of the configuration",
    ExternKind.KSYM: "symbol",
    ExternKind.KSYM_TYPED: "variable",
    ExternKind.KFUNC: "function",
}
_STEM = 6  # what names must share to be proposed for one another
_PROPOSED = 3


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
    its_type = held.type_id if isinstance(held, Function | Variable) else type_id
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
