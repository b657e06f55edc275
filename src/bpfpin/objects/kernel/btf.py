"""BTF in the kernel: loading it, and reading what a map's BTF id stands for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import BtfType, Enum, Int, Modifier, Struct, Union
from bpfpin.btf.write import subset
from bpfpin.errors import BpfError, SyscallError, UsageError
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.info import MapInfo, btf_info
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
# What programs are handed by the kernel is no event of theirs.
CONTEXTS = frozenset(
    {"xdp_md", "__sk_buff", "bpf_sock", "bpf_sock_addr", "bpf_sock_ops", "bpf_sockopt"}
    | {"bpf_sysctl", "bpf_sk_lookup", "sk_msg_md", "sk_reuseport_md", "pt_regs"}
)
SHOWN = 12


class BtfHandle(KernelObject):
    """A table of types that the kernel holds; maps and programs keep it after it is closed."""

    kind = ObjectKind.BTF

    def __init__(self, descriptor: Descriptor, btf: Btf | None = None) -> None:
        super().__init__(descriptor)
        self._btf = btf

    @classmethod
    def load(cls, btf: Btf) -> BtfHandle:
        """Give *btf* to the kernel (BPF_BTF_LOAD, CAP_BPF); an error's hint is its log."""
        data = btf.to_bytes()
        try:
            fd = bpf.btf_load(data, target="BTF")
        except SyscallError:
            # Only now with a log: the kernel writes down every type, which takes long.
            fd = bpf.btf_load(data, log_size=LOG_SIZE, target="BTF")
        return cls(Descriptor(fd), btf)

    @classmethod
    def load_types(cls, refs: Sequence[TypeRef]) -> tuple[BtfHandle, list[int]]:
        """Give the kernel just the types that *refs* need; returns their new ids too.

        A whole object's BTF may hold what this kernel does not know; a map needs two types of it.
        """
        blob, ids = subset(refs)
        return cls.load(Btf.parse(blob)), ids

    @property
    def btf(self) -> Btf:
        """The types, read back from the kernel unless they were loaded by us."""
        if self._btf is None:
            self._btf = read_btf(self.fd)
        return self._btf


def map_btf(btf_id: int) -> Btf:
    """Return the types of BTF *btf_id* (CAP_SYS_ADMIN), from memory while somebody uses them."""
    found = _known.get(btf_id)
    if found is None:
        with BtfHandle.from_id(btf_id) as handle:
            found = _known[btf_id] = handle.btf
    return found


def read_btf(fd: int) -> Btf:
    """Return the types of the BTF *fd*; those of a kernel module stand on vmlinux's."""
    reported = btf_info(fd)
    is_split = reported.is_kernel and reported.name != "vmlinux"
    data = ctypes.create_string_buffer(reported.size)
    answer = BtfInfoAnswer(btf=ctypes.addressof(data), btf_size=reported.size)
    bpf.obj_get_info_by_fd(fd, answer)
    return Btf.parse(data.raw, base=vmlinux_btf() if is_split else None)


@functools.cache
def vmlinux_btf() -> Btf:
    """Return the types of the running kernel, scanned once a process (60 ms, 6 MB)."""
    return Btf.parse(VMLINUX.read_bytes())


def as_btf(source: Btf | str | Path) -> Btf:
    """Return *source*, read if it is the path of a file of raw BTF, as /sys/kernel/btf/vmlinux."""
    return source if isinstance(source, Btf) else Btf.parse(Path(source).read_bytes())


@functools.cache
def module_btfs() -> tuple[Btf, ...]:
    """Return the types of the kernel's modules, those of vmlinux below; read once a process."""
    base = vmlinux_btf()
    paths = sorted(path for path in VMLINUX.parent.iterdir() if path != VMLINUX)
    return tuple(Btf.parse(path.read_bytes(), base=base) for path in paths)


def value_type_of(info: MapInfo) -> TypeRef | None:
    """Return the type of a map's values, of a struct_ops map the kernel's own."""
    if info.btf_vmlinux_value_type_id:
        return type_of(info.btf_vmlinux_id, info.btf_vmlinux_value_type_id)
    return type_of(info.btf_id, info.btf_value_type_id)


def type_of(btf_id: int, type_id: int) -> TypeRef | None:
    """Return type *type_id* of BTF *btf_id*; None without one, or where BTF by id is refused.

    An ordinary user may not open BTF by id, whatever the rights on the map's pin.
    """
    if not btf_id or not type_id:
        return None
    with contextlib.suppress(OSError):
        return map_btf(btf_id).ref(type_id)
    return None


# The types of events: a map of events has none in the kernel, the programs that use it have.


def event_type(name: str, info: MapInfo, *, size: int | None = None) -> TypeRef:
    """Return the type called *name* (`struct event`, or `event`) of the programs that use a map.

    Their BTF is asked for by id (CAP_SYS_ADMIN). `UsageError` with the structures that there are,
    of *size* bytes if that is given.
    """
    keyword, _, rest = name.strip().rpartition(" ")
    if keyword not in KINDS:  # of several words, as `unsigned int`
        keyword, rest = "", name.strip()
    for btf in _tables(info):
        found = btf.find(rest, *KINDS[keyword])
        if found is not None and isinstance(btf[found], KINDS[keyword]):
            return btf.ref(found)
    told = ", ".join(candidates(info, size=size)) or "none: no program with BTF uses the map"
    raise UsageError(
        f"no type {name!r} in the programs that use map {info.name!r} (id {info.id})",
        hint=f"structures there: {told}",
    )


def type_of_size(name: str, info: MapInfo, size: int) -> TypeRef:
    """Return the type called *name*, which must take *size* bytes, as `event_type` finds it."""
    found = event_type(name, info, size=size)
    if found.size != size:
        told = ", ".join(candidates(info, size=size)) or "none"
        raise UsageError(
            f"{name} takes {found.size} bytes, where map {info.name!r} (id {info.id}) has {size}",
            hint=f"structures of {size} bytes there: {told}",
        )
    return found


def candidates(info: MapInfo, *, size: int | None = None) -> list[str]:
    """Return the structures that the events of a map may be, as `struct event (16 bytes)`.

    With *size* those alone that take so many bytes.
    """
    found = {
        f"struct {kind.name} ({kind.size} bytes)": None
        for btf in _tables(info)
        for kind in btf.types()
        if isinstance(kind, Struct) and kind.name and kind.size and kind.name not in CONTEXTS
        if size in (None, kind.size)
    }
    return list(found)[:SHOWN]


def _tables(info: MapInfo) -> Iterator[Btf]:
    """Yield the BTF of the map, if it has any, and of each program that uses it."""
    users = {program.btf_id for program in walk.programs() if info.id in program.map_ids}
    for btf_id in sorted(users | {info.btf_id} - {0}, reverse=True):
        with contextlib.suppress(BpfError):  # it was unloaded just now, or is malformed
            yield map_btf(btf_id)
