"""BTF in the kernel: loading it, and reading the types of maps, programs and the kernel itself."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import BtfType, Enum, Int, Modifier, Struct, Union
from bpfpin.btf.write import subset
from bpfpin.errors import BpfError, SyscallError, UsageError
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.info import MapInfo, ProgramInfo, btf_info
from bpfpin.objects.kernel.object import KernelObject, ObjectKind
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import BtfInfoAnswer
from bpfpin.syscall.fd import Descriptor

VMLINUX = Path("/sys/kernel/btf/vmlinux")
LOG_SIZE = 1 << 16
_known: WeakValueDictionary[int, Btf] = WeakValueDictionary()
KINDS: dict[str, tuple[type[BtfType], ...]] = {
    "struct": (Struct,),
    "union": (Union,),
    "enum": (Enum,),
    "": (Struct, Union, Enum, Modifier, Int),
}
# Structures that programs get from the kernel; they are not types of events.
CONTEXTS = frozenset(
    {"xdp_md", "__sk_buff", "bpf_sock", "bpf_sock_addr", "bpf_sock_ops", "bpf_sockopt"}
    | {"bpf_sysctl", "bpf_sk_lookup", "sk_msg_md", "sk_reuseport_md", "pt_regs"}
)
SHOWN = 12


class BtfHandle(KernelObject):
    """A loaded BTF object; maps and programs that use it keep it alive after `close`."""

    kind = ObjectKind.BTF

    def __init__(self, descriptor: Descriptor, btf: Btf | None = None) -> None:
        """Take over an open descriptor.

        Args:
            descriptor: The descriptor of the BTF object; the handle closes it.
            btf: Its types if they are known; None to read them from the kernel when needed.
        """
        super().__init__(descriptor)
        self._btf = btf

    @classmethod
    def load(cls, btf: Btf) -> BtfHandle:
        """Load *btf* into the kernel (BPF_BTF_LOAD, CAP_BPF); an error's hint is the log."""
        data = btf.to_bytes()
        try:
            fd = bpf.btf_load(data, target="BTF")
        except SyscallError:
            # A log only after a refusal: the kernel writes a line for every type, which is slow.
            fd = bpf.btf_load(data, log_size=LOG_SIZE, target="BTF")
        return cls(Descriptor(fd), btf)

    @classmethod
    def load_types(cls, refs: Sequence[TypeRef]) -> tuple[BtfHandle, list[int]]:
        """Load only the types that *refs* need; return their new ids as well.

        The whole BTF of an object may have kinds that this kernel does not know, and a map needs
        two of its types.
        """
        blob, ids = subset(refs)
        return cls.load(Btf.parse(blob)), ids

    @property
    def btf(self) -> Btf:
        """The types, read back from the kernel unless this process loaded them."""
        if self._btf is None:
            self._btf = read_btf(self.fd)
        return self._btf


def map_btf(btf_id: int) -> Btf:
    """Return the types of BTF *btf_id* (CAP_SYS_ADMIN); cached while they are in use."""
    # An id names the same BTF for long: the kernel hands ids out in ascending order and starts
    # again only after INT_MAX (idr_alloc_cyclic()).
    btf = _known.get(btf_id)
    if btf is None:
        with BtfHandle.from_id(btf_id) as handle:
            btf = _known[btf_id] = handle.btf
    return btf


def read_btf(fd: int) -> Btf:
    """Return the types of the BTF *fd*; those of a kernel module refer to vmlinux's (split BTF)."""
    reported = btf_info(fd)
    # The type ids and strings of a module's BTF go on where those of vmlinux end.
    is_split = reported.is_kernel and reported.name != "vmlinux"
    # The first call returned the size; the types of loaded BTF never change.
    data = ctypes.create_string_buffer(reported.size)
    answer = BtfInfoAnswer(btf=ctypes.addressof(data), btf_size=reported.size)
    bpf.obj_get_info_by_fd(fd, answer)
    return Btf.parse(data.raw, base=vmlinux_btf() if is_split else None)


@functools.cache
def vmlinux_btf() -> Btf:
    """Return the types of the running kernel, scanned once a process (60 ms, 6 MB)."""
    return Btf.parse(VMLINUX.read_bytes())


def has_enumerator(enum: str, name: str) -> bool:
    """Whether the running kernel's enum has that name; true if its BTF cannot tell.

    Its own list tells what a kernel knows, whatever its version number is.
    """
    try:
        btf = vmlinux_btf()
    except FileNotFoundError:
        return True
    enum_id = btf.find(enum, Enum)
    kind = btf[enum_id] if enum_id is not None else None
    return not isinstance(kind, Enum) or any(value.name == name for value in kind.values)


def as_btf(source: Btf | str | Path) -> Btf:
    """Return *source*, read from its file (raw BTF, as /sys/kernel/btf/vmlinux) if it is a path."""
    return source if isinstance(source, Btf) else Btf.parse(Path(source).read_bytes())


def module_btfs() -> Iterator[tuple[str, Btf]]:
    """Yield the name and the types of each module that is loaded now, on top of vmlinux's types.

    A process reads each of them once, when the iterator comes to it.
    """
    for path in sorted(path for path in VMLINUX.parent.iterdir() if path != VMLINUX):
        with contextlib.suppress(FileNotFoundError):  # the module was unloaded meanwhile
            # A module that is loaded again, maybe another version, has a file of another inode.
            yield path.name, _module_btf(path, path.stat().st_ino)


@functools.cache
def _module_btf(path: Path, _inode: int) -> Btf:
    return Btf.parse(path.read_bytes(), base=vmlinux_btf())


def value_type_of(info: MapInfo) -> TypeRef | None:
    """Return the type of a map's values; for a struct_ops map it is in the kernel's BTF."""
    if info.btf_vmlinux_value_type_id and not info.btf_vmlinux_id:
        # Before Linux 6.9 the kernel reported no id of its BTF, and had tables of vmlinux only
        # ("bpf: pass btf object id in bpf_map_info.").
        with contextlib.suppress(OSError):
            return vmlinux_btf().ref(info.btf_vmlinux_value_type_id)
        return None
    if info.btf_vmlinux_value_type_id:
        return type_of(info.btf_vmlinux_id, info.btf_vmlinux_value_type_id)
    return type_of(info.btf_id, info.btf_value_type_id)


def type_of(btf_id: int, type_id: int) -> TypeRef | None:
    """Return type *type_id* of BTF *btf_id*; None if there is none or it cannot be opened.

    Callers without CAP_SYS_ADMIN cannot open BTF by id, whatever the mode of the map's pin.
    """
    if not btf_id or not type_id:
        return None
    # No privilege, or freed meanwhile: the types beside the pin are used, or none.
    with contextlib.suppress(OSError):
        return map_btf(btf_id).ref(type_id)
    return None


def event_type(name: str, info: MapInfo, *, size: int | None = None) -> TypeRef:
    """Return the type *name* (`struct event` or `event`) from the BTF of a map's programs.

    The kernel keeps no type for a map of events, but the programs that write them know it. Needs
    CAP_SYS_ADMIN. If no program has the type, `UsageError` names the structures that exist, only
    those of *size* bytes if that is given.
    """
    found = _named(name, _tables(info))
    if found is not None:
        return found
    structs = ", ".join(candidates(info, size=size)) or "none: no program with BTF uses the map"
    raise UsageError(
        f"no type {name!r} in the programs that use map {info.name!r} (id {info.id})",
        hint=f"structures there: {structs}",
    )


def type_in_program(name: str, info: ProgramInfo) -> TypeRef:
    """Return the type *name* (`struct record` or `record`) from the BTF of a program.

    Needs CAP_SYS_ADMIN. `UsageError` names the structures that exist.
    """
    if not info.btf_id:
        raise UsageError(f"program {info.name!r} (id {info.id}) has no BTF with types")
    btf = map_btf(info.btf_id)
    found = _named(name, [btf])
    if found is not None:
        return found
    structs = [f"struct {kind.name} ({kind.size} bytes)" for kind in _structures(btf)]
    raise UsageError(
        f"no type {name!r} in program {info.name!r} (id {info.id})",
        hint=f"structures there: {', '.join(structs[:SHOWN]) or 'none'}",
    )


def _named(name: str, tables: Iterable[Btf]) -> TypeRef | None:
    keyword, _, rest = name.strip().rpartition(" ")
    if keyword not in KINDS:  # the name has several words, as `unsigned int`
        keyword, rest = "", name.strip()
    for btf in tables:
        type_id = btf.find(rest, *KINDS[keyword])
        if type_id is not None and isinstance(btf[type_id], KINDS[keyword]):
            return btf.ref(type_id)
    return None


def _structures(btf: Btf) -> Iterator[Struct]:
    for kind in btf.types():
        if isinstance(kind, Struct) and kind.name and kind.size and kind.name not in CONTEXTS:
            yield kind


def type_of_size(name: str, info: MapInfo, size: int) -> TypeRef:
    """Return the type *name* as `event_type` does; it must have *size* bytes."""
    ref = event_type(name, info, size=size)
    if ref.size != size:
        structs = ", ".join(candidates(info, size=size)) or "none"
        raise UsageError(
            f"{name} takes {ref.size} bytes, where map {info.name!r} (id {info.id}) has {size}",
            hint=f"structures of {size} bytes there: {structs}",
        )
    return ref


def candidates(info: MapInfo, *, size: int | None = None) -> list[str]:
    """Return the structures that may be the type of a map's events, as `struct event (16 bytes)`.

    With *size* only those of that many bytes.
    """
    structs = {
        f"struct {kind.name} ({kind.size} bytes)": None
        for btf in _tables(info)
        for kind in _structures(btf)
        if size in (None, kind.size)
    }
    return list(structs)[:SHOWN]


def _tables(info: MapInfo) -> Iterator[Btf]:
    """Yield the BTF of the map, if it has any, and of every program that uses it."""
    users = {program.btf_id for program in walk.programs() if info.id in program.map_ids}
    # The newest first: after a reload its programs write the events, maybe by a newer type.
    for btf_id in sorted(users | {info.btf_id} - {0}, reverse=True):
        with contextlib.suppress(BpfError):  # unloaded meanwhile, or malformed
            yield map_btf(btf_id)
