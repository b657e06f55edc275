"""Types of the kernel, of a module, of an object file or of a map as a C header.

Types of the kernel get the attribute `preserve_access_index`: the compiler then leaves a relocation
(CO-RE) for each access to a member, and the loader fills in the offset of the running kernel.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_header import CHeader
from bpfpin.errors import BpfError, ObjectNotFoundError, PermissionDeniedError, UsageError
from bpfpin.objects.kernel.btf import VMLINUX, vmlinux_btf
from bpfpin.objects.kernel.info import ID, NAME
from bpfpin.records import dataclass

_NOT_A_LETTER = re.compile(r"[^A-Za-z0-9]")
_GUARD = "__VMLINUX_H__"  # that of bpftool; headers of libbpf ask for it
# The macros by which a source leaves parts out are those of bpftool, too.
_CORE = """#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif
"""
_CORE_END = """
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif
"""
_FUNCTIONS = """
/* Functions of the kernel that programs may call. */
#ifndef BPF_NO_KFUNC_PROTOTYPES
{}
#endif
"""


@dataclass(frozen=True, slots=True)
class TypesInC:
    """Types as a C header.

    Attributes:
        source: What they are the types of, in words.
        text: The header.
    """

    source: str
    text: str


def kernel_header() -> TypesInC:
    """Return the types of the running kernel as the header that is usually called vmlinux.h.

    Raises:
        BpfError: The kernel has no BTF.
    """
    return _of_kernel("the running kernel", _vmlinux(), own=False)


def types_in_c(source: str, *, pin_root: Path) -> TypesInC:
    """Return the types of *source* as a C header.

    Args:
        source: `vmlinux` for the running kernel, the name of one of its modules, the path of an
            object or of a file of raw BTF, or a map as its path, `id:N` or `name:NAME`.
        pin_root: The directory that short names of pins are relative to.

    Returns:
        The header. For a module it has the types of the module and those of the kernel that they
        need; for a map those of its keys and values.

    Raises:
        ObjectNotFoundError: There is no such module and no such file.
        ObjectFileError: The file has no BTF, or it is malformed.
        UsageError: The map has no BTF.
        BpfError: The kernel has no BTF, or the map cannot be opened.
    """
    if source.startswith((ID, NAME)):
        return _of_map(source)
    if "/" not in source:
        if source == VMLINUX.name:
            return kernel_header()
        if (VMLINUX.parent / source).exists():
            return _of_module(source)
    # The types of the kernel, the usual case, need none of the modules for maps and objects.
    from bpfpin.map.open import path_of  # noqa: PLC0415
    from bpfpin.syscall.fs import is_bpffs  # noqa: PLC0415

    path = Path(path_of(source, pin_root))
    if not path.exists():
        raise _missing(source)
    if path.parent == VMLINUX.parent:
        return types_in_c(path.name, pin_root=pin_root)
    if is_bpffs(path):
        return _of_map(str(path))
    return _of_file(path)


def _missing(source: str) -> BpfError:
    from bpfpin.choices import similar  # noqa: PLC0415 - only for a wrong name

    modules = [path.name for path in VMLINUX.parent.glob("*")]
    near = similar(source, modules)
    hint = f"near it: {', '.join(near)}" if near else "ls /sys/kernel/btf shows the modules"
    return ObjectNotFoundError(f"no loaded module and no file {source!r}", hint=hint)


def _vmlinux() -> Btf:
    try:
        return vmlinux_btf()
    except FileNotFoundError:
        raise BpfError(
            f"this kernel has no types to show: there is no {VMLINUX}",
            hint="a kernel has them with CONFIG_DEBUG_INFO_BTF=y",
        ) from None


def _of_module(name: str) -> TypesInC:
    path = VMLINUX.parent / name
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{path} cannot be read", command="open", errno=error.errno or 0, target=str(path)
        ) from None
    btf = Btf.parse(data, base=_vmlinux())
    return _of_kernel(f"the kernel module {name}", btf, own=True)


def _of_file(path: Path) -> TypesInC:
    from bpfpin.objfile.reader import read_btf  # noqa: PLC0415 - only for files

    btf = read_btf(path)
    # A file of raw BTF has the types of a kernel; those of an object are the program's own, which
    # no kernel relocates.
    with path.open("rb") as file:
        is_object = file.read(4) == b"\x7fELF"
    return _of_object(str(path), btf) if is_object else _of_kernel(str(path), btf, own=False)


def _of_map(target: str) -> TypesInC:
    from bpfpin.map.open import open_map  # noqa: PLC0415 - only for maps

    with open_map(target) as bpf_map:
        title = f"map {bpf_map.name} (id {bpf_map.id})"
        refs = [("key", bpf_map.key_type), ("value", bpf_map.value_type)]
    known = [(what, ref) for what, ref in refs if ref]
    if not known:
        raise UsageError(
            f"{title} has no BTF: its types are not known",
            hint=f"bpfpin map show {ID}{bpf_map.id} shows its sizes",
        )
    return TypesInC(title, _map_text(title, known))


def _map_text(title: str, refs: list[tuple[str, TypeRef]]) -> str:
    text = ""
    for btf in dict.fromkeys(ref.btf for _, ref in refs):
        header = CHeader(btf)
        header.add(ref.id for _, ref in refs if ref.btf is btf)
        text += header.text()
    # A number as a key has no definition of its own.
    shown = "".join(f"/* {what}: {_one_line(ref)} */\n" for what, ref in refs)
    return f"{_comment(title)}#pragma once\n\n{shown}\n{text}"


def _one_line(ref: TypeRef) -> str:
    from bpfpin.btf.c_source import c_type  # noqa: PLC0415 - only for maps

    text = c_type(ref)
    return text if len(text) < 80 else f"{text[:79]}…"


def _of_object(title: str, btf: Btf) -> TypesInC:
    header = CHeader(btf)
    header.add_all()
    return TypesInC(title, f"{_comment(title)}#pragma once\n\n{header.text()}")


def _of_kernel(title: str, btf: Btf, *, own: bool) -> TypesInC:
    with _without_collector():
        header = CHeader(btf)
        header.add_all(own=own)
        functions = header.functions()
        text = header.text()
    # A source may include the header of the kernel and that of a module.
    guard = f"__{_NOT_A_LETTER.sub('_', title).upper()}_H__" if own else _GUARD
    calls = _FUNCTIONS.format("\n".join(functions)) if functions else ""
    return TypesInC(
        title,
        f"{_comment(title)}#ifndef {guard}\n#define {guard}\n\n{_CORE}\n{text}{_CORE_END}{calls}\n"
        f"#endif /* {guard} */\n",
    )


def _comment(title: str) -> str:
    text = title.replace("*/", "* /")
    return f"/* Types of {text if text.isprintable() else ascii(text)}, written by bpfpin. */\n"


@contextmanager
def _without_collector() -> Iterator[None]:
    # The types of a kernel are 100,000 objects without a cycle; walking them again and again takes
    # a seventh of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
