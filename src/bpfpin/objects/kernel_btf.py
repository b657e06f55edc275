"""BTF in the kernel: loading it, and reading what a map's BTF id stands for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.write import subset
from bpfpin.errors import SyscallError
from bpfpin.objects.info import MapInfo, btf_info
from bpfpin.objects.kernel_object import KernelObject, ObjectKind
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.info import BtfInfoAnswer

VMLINUX = Path("/sys/kernel/btf/vmlinux")
LOG_SIZE = 1 << 16

_known: WeakValueDictionary[int, Btf] = WeakValueDictionary()


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
