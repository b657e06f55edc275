"""Finds the kernel's answers for the externs of an object; pure, the kernel is an argument."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import BtfType, Function, Var
from bpfpin.choices import similar
from bpfpin.errors import BpfError, NotSupportedError, ObjectFileError
from bpfpin.externs import KCONFIG, ConfigForm, ExternKind, ExternSpec
from bpfpin.fixup.core_match import Comparison
from bpfpin.fixup.externs import Answer
from bpfpin.records import dataclass

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
_STEM = 6  # characters that a proposed name must share
_PROPOSED = 3


def values_in(text: bytes, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Return the values in a kernel configuration.

    Args:
        text: The configuration, in the format of Kconfig's `.config`.
        wanted: Names to return; None: all.

    Returns:
        The values by name (`CONFIG_HZ` -> `250`); of several lines with one name the last counts.
    """
    return {
        name: value.decode(errors="replace").strip()
        for name, value in ((match[1].decode(), match[2]) for match in _LINE.finditer(text))
        if wanted is None or name in wanted
    }


def encoded(extern: ExternSpec, text: str) -> bytes:
    """Return the bytes of the variable for the configuration value *text*.

    As in libbpf, `y`, `n` and `m` fit a bool, an `enum libbpf_tristate` or a char, a number fits an
    integer that is large enough, a quoted text an array of char. A text that is too long is
    truncated and ends with a NUL.

    Raises:
        ObjectFileError: The value does not fit the type of the variable.
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
    # A char gets the letter itself (set_kcfg_value_tri() in libbpf.c).
    if form is ConfigForm.CHAR:
        return ord(text)
    if form is ConfigForm.TRISTATE or (form is ConfigForm.BOOL and text != "m"):
        return _TRISTATE[text]
    return None


def _of_number(extern: ExternSpec, form: ConfigForm | None, text: str) -> int | None:
    """Return the number as unsigned with the same bits; None if the variable is too small."""
    match = _NUMBER.fullmatch(text)
    if match is None or form not in (ConfigForm.NUMBER, ConfigForm.CHAR, ConfigForm.BOOL):
        return None
    digits = match[2]
    # libbpf uses strtoull() with base 0.
    is_octal = len(digits) > 1 and digits[1] not in "xX" and digits[0] == "0"
    number = int(digits, 8 if is_octal else 0) * (-1 if match[1] == "-" else 1)
    bits = 1 if form is ConfigForm.BOOL else 8 * extern.size
    # Numbers of eight bytes may be addresses (CONFIG_PAGE_OFFSET), also in a signed variable.
    is_signed = extern.is_signed and bits < 64
    low = -(1 << (bits - 1)) if is_signed or bits == 64 else 0
    high = 1 << (bits - 1 if is_signed else bits)
    return number % (1 << 8 * extern.size) if low <= number < high else None


@dataclass(frozen=True)
class ExternSources:
    """Access to the kernel; each function is called when an extern needs it.

    Attributes:
        config: Returns the configuration values of those names that have one.
        addresses: Returns the addresses of those symbols that exist.
        types: Yields the kernel's types under an empty name, then those of its modules by name.
    """

    config: Callable[[Collection[str]], Mapping[str, str]]
    addresses: Callable[[Collection[str]], Mapping[str, int]]
    types: Callable[[], Iterable[tuple[str, Btf]]]


def answers(externs: Sequence[ExternSpec], sources: ExternSources) -> tuple[Answer, ...]:
    """Return the kernel's answer for each of *externs*, in their order.

    Errors are not raised: the answer contains them.
    """
    by_name: dict[str, Answer] = {}
    for kind in ExternKind:
        of_kind = [extern for extern in externs if extern.kind is kind]
        try:
            by_name |= {answer.extern.name: answer for answer in _ask(kind, of_kind, sources)}
        except BpfError as error:
            by_name |= {extern.name: Answer(extern, error=error) for extern in of_kind}
    return tuple(by_name[extern.name] for extern in externs)


def _ask(
    kind: ExternKind, externs: Sequence[ExternSpec], sources: ExternSources
) -> Iterator[Answer]:
    # All names of a kind are looked up together: /proc/kallsyms and the configuration are read
    # once.
    names = {extern.kernel_name for extern in externs}
    if not names:
        return
    if kind is ExternKind.KCONFIG:
        texts = sources.config(names)
        yield from (_configured(extern, texts.get(extern.name)) for extern in externs)
    elif kind is ExternKind.KSYM:
        known = sources.addresses(names)
        yield from (_addressed(extern, known.get(extern.kernel_name)) for extern in externs)
    else:
        yield from (_typed(extern, sources.types) for extern in externs)


def _configured(extern: ExternSpec, text: str | None) -> Answer:
    if text is None:
        return _absent(extern)
    try:
        return Answer(extern, contents=encoded(extern, text))
    # Kept in the answer, so that one message can list everything that this kernel lacks.
    except BpfError as error:
        return Answer(extern, error=error)


def _addressed(extern: ExternSpec, address: int | None) -> Answer:
    return _absent(extern) if address is None else Answer(extern, number=address)


def _typed(extern: ExternSpec, types: Callable[[], Iterable[tuple[str, Btf]]]) -> Answer:
    kind = _KINDS[extern.kind]
    # vmlinux first: a module's variable or function of the same name is another object.
    tables = []
    for module, btf in types():
        type_id = btf.find(extern.kernel_name, kind)
        if type_id is not None:
            return _compared(extern, module, btf, type_id)
        tables.append(btf)
    return _absent(extern, proposed=_near(extern.kernel_name, kind, tables))


def _compared(extern: ExternSpec, module: str, btf: Btf, type_id: int) -> Answer:
    kind = btf[type_id]
    its_type = kind.type_id if isinstance(kind, Function | Var) else type_id
    # Qualifiers of a variable do not matter; a prototype has none.
    theirs = its_type if isinstance(kind, Function) else btf.strip(its_type)
    if Comparison(extern.type.btf, btf).fits(extern.type.id, theirs):
        return Answer(extern, number=type_id, module=module)
    if extern.is_weak:
        return Answer(extern)
    in_kernel = ExternSpec(extern.kernel_name, extern.kind, TypeRef(btf, theirs)).c_source
    hint = "declare it as in the kernel (bpftool btf dump), or as __weak"
    if in_kernel == extern.c_source:
        # is_one_kind(): BTF_KIND_FWD is not BTF_KIND_STRUCT, for libbpf neither.
        hint = (
            "a structure in it is only declared in one of them (struct NAME;): define it, with any"
            " members"
        )
    return Answer(
        extern,
        error=NotSupportedError(
            f"the object asks for {extern.c_source}, and the kernel has {in_kernel}",
            feature=extern.name,
            hint=hint,
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
    """Return existing names similar to *name*, among those with the same first characters."""
    # `similar` is slow: over all strings of the kernel's BTF it would take seconds.
    stem = name[:_STEM].encode()
    alike = [
        (text.decode(errors="replace"), btf)
        for btf in tables
        for text in btf.strings.split(b"\0")
        if text.startswith(stem)
    ]
    close = similar(name, (text for text, _ in alike), count=4 * _PROPOSED)
    matches = [text for text in close if any(btf.find(text, kind) for _, btf in alike)]
    return matches[:_PROPOSED]
