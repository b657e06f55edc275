"""Members of values that the kernel owns: locks, timers, and objects that programs put into maps.

User space reads zeros there, and the kernel skips them when it copies a value from user space
(`enum btf_field_type` and bpf_obj_memcpy() in include/linux/bpf.h). Codecs leave them out.
"""

from __future__ import annotations

from typing import Final

from bpfpin.btf.btf import Btf
from bpfpin.btf.layout import MAX_DEPTH
from bpfpin.btf.types import Array, BtfType, Modifier, ModifierKind, Pointer, Struct

SPIN_LOCK: Final = "bpf_spin_lock"
# The kernel finds them by the name of the type, too (btf_get_field_type in kernel/bpf/btf.c).
STRUCTURES: Final = frozenset(
    {
        SPIN_LOCK,
        "bpf_res_spin_lock",
        "bpf_timer",
        "bpf_wq",
        "bpf_task_work",
        "bpf_list_head",
        "bpf_list_node",
        "bpf_rb_root",
        "bpf_rb_node",
        "bpf_refcount",
    }
)
# The type tags of pointers that only programs set. `uptr` is missing, because user space sets it.
POINTERS: Final = frozenset({"kptr", "kptr_untrusted", "percpu_kptr"})


def is_kernel_owned(btf: Btf, type_id: int) -> bool:
    """Whether the kernel owns values of the type, or the elements if it is an array."""
    kind = _element(btf, type_id)
    if isinstance(kind, Struct):
        return kind.name in STRUCTURES
    return isinstance(kind, Pointer) and _tag(btf, kind) in POINTERS


def is_spin_lock(btf: Btf, type_id: int) -> bool:
    """Whether the type is `struct bpf_spin_lock`, which BPF_F_LOCK acquires."""
    kind = btf[btf.strip(type_id)]
    return isinstance(kind, Struct) and kind.name == SPIN_LOCK


def _element(btf: Btf, type_id: int) -> BtfType:
    kind = btf[btf.strip(type_id)]
    for _ in range(MAX_DEPTH):
        if not isinstance(kind, Array):
            break
        kind = btf[btf.strip(kind.element_id)]
    return kind


def _tag(btf: Btf, kind: Pointer) -> str:
    target = btf[kind.type_id]
    # `__kptr` and its relatives are type tags on the target of the pointer (bpf_helpers.h).
    is_tag = isinstance(target, Modifier) and target.kind is ModifierKind.TYPE_TAG
    return target.name if is_tag else ""
