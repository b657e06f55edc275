"""The attributes of the bpf(2) commands: the members of `union bpf_attr` in linux/bpf.h.

Each structure is exactly as long as the members that are used here, and members that are not given
are zero. The kernel treats a shorter attribute as if zeros followed, and refuses unknown members
only if they are not zero (E2BIG; bpf_check_uarg_tail_zero() of kernel/bpf/syscall.c). So one
structure works on older and newer kernels.

The `…Answer` structures are what BPF_OBJ_GET_INFO_BY_FD fills in. Pointers and counts that are left
zero ask only for the numbers.
"""

from __future__ import annotations

import ctypes
from typing import Any

from bpfpin.uapi import OBJ_NAME_LEN, TAG_SIZE

Fields = list[tuple[str, Any]]


def u32(*names: str) -> Fields:
    """Return unsigned members of 32 bits."""
    return [(name, ctypes.c_uint32) for name in names]


def s32(*names: str) -> Fields:
    """Return signed members of 32 bits."""
    return [(name, ctypes.c_int32) for name in names]


def u64(*names: str) -> Fields:
    """Return unsigned members of 64 bits, which pointers are as well."""
    return [(name, ctypes.c_uint64) for name in names]


def name16(field: str) -> Fields:
    """Return a member for the name of an object: 16 bytes, the last one NUL."""
    # bpf_obj_name_cpy() of kernel/bpf/syscall.c refuses 16 bytes without a NUL (EINVAL).
    return [(field, ctypes.c_char * OBJ_NAME_LEN)]


class MapCreateAttr(ctypes.Structure):
    """BPF_MAP_CREATE."""

    _fields_ = [
        *u32("map_type", "key_size", "value_size", "max_entries", "map_flags"),
        *u32("inner_map_fd", "numa_node"),
        *name16("map_name"),
        *u32("map_ifindex", "btf_fd", "btf_key_type_id", "btf_value_type_id"),
        *u32("btf_vmlinux_value_type_id"),
        *u64("map_extra"),
    ]


class MapElemAttr(ctypes.Structure):
    """BPF_MAP_*_ELEM and BPF_MAP_GET_NEXT_KEY; for the latter `value` receives the next key."""

    # On 64-bit machines ctypes aligns a u64 to eight bytes, which makes the same hole after
    # `map_fd` as `__aligned_u64` does in the header. The structures below rely on this, too.
    _fields_ = [*u32("map_fd"), *u64("key", "value", "flags")]


class MapFreezeAttr(ctypes.Structure):
    """BPF_MAP_FREEZE."""

    _fields_ = u32("map_fd")


class MapBatchAttr(ctypes.Structure):
    """BPF_MAP_*_BATCH; `count` is the requested number, and afterwards the number done."""

    _fields_ = [
        *u64("in_batch", "out_batch", "keys", "values"),
        *u32("count", "map_fd"),
        *u64("elem_flags", "flags"),
    ]


class ProgLoadAttr(ctypes.Structure):
    """BPF_PROG_LOAD."""

    _fields_ = [
        *u32("prog_type", "insn_cnt"),
        *u64("insns", "license"),
        *u32("log_level", "log_size"),
        *u64("log_buf"),
        *u32("kern_version", "prog_flags"),
        *name16("prog_name"),
        *u32("prog_ifindex", "expected_attach_type", "prog_btf_fd", "func_info_rec_size"),
        *u64("func_info"),
        *u32("func_info_cnt", "line_info_rec_size"),
        *u64("line_info"),
        *u32("line_info_cnt", "attach_btf_id", "attach_btf_obj_fd", "core_relo_cnt"),
        *u64("fd_array", "core_relos"),
        *u32("core_relo_rec_size", "log_true_size"),
    ]


class ProgTestRunAttr(ctypes.Structure):
    """BPF_PROG_TEST_RUN."""

    _fields_ = [
        *u32("prog_fd", "retval", "data_size_in", "data_size_out"),
        *u64("data_in", "data_out"),
        *u32("repeat", "duration", "ctx_size_in", "ctx_size_out"),
        *u64("ctx_in", "ctx_out"),
        *u32("flags", "cpu", "batch_size"),
    ]


class ObjAttr(ctypes.Structure):
    """BPF_OBJ_PIN and BPF_OBJ_GET; the kernel reads `path_fd` with BPF_F_PATH_FD (Linux 6.5)."""

    _fields_ = [*u64("pathname"), *u32("bpf_fd", "file_flags"), *s32("path_fd")]


class ObjInfoAttr(ctypes.Structure):
    """BPF_OBJ_GET_INFO_BY_FD."""

    _fields_ = [*u32("bpf_fd", "info_len"), *u64("info")]


class IdAttr(ctypes.Structure):
    """BPF_*_GET_NEXT_ID and BPF_*_GET_FD_BY_ID; `id` is the id to start after, or to open."""

    _fields_ = u32("id", "next_id", "open_flags")


class BtfLoadAttr(ctypes.Structure):
    """BPF_BTF_LOAD."""

    _fields_ = [
        *u64("btf", "btf_log_buf"),
        *u32("btf_size", "btf_log_size", "btf_log_level", "btf_log_true_size"),
    ]


class OrderedLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for tcx, netkit and cgroups."""

    _fields_ = [
        *u32("relative"),
        # Left at 0, the hook is changed whatever its revision is (bpf_mprog_attach() of
        # kernel/bpf/mprog.c).
        *u64("expected_revision"),
    ]


class PerfEventLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for perf events."""

    _fields_ = u64("cookie")


class NetfilterLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for netfilter."""

    _fields_ = [*u32("family", "hook"), *s32("priority"), *u32("flags")]


class KprobeMultiLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for probes at many functions."""

    _fields_ = [*u32("flags", "count"), *u64("symbols", "addresses", "cookies")]


class TracingLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for programs made for a function, and extensions."""

    _fields_ = [*u32("target_btf_id"), *u64("cookie")]


class UprobeMultiLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for probes at many places of a file."""

    _fields_ = [
        *u64("path", "offsets", "reference_counters", "cookies"),
        *u32("count", "flags", "pid"),
    ]


class IteratorLink(ctypes.Structure):
    """What BPF_LINK_CREATE takes besides for iterators: an address and the size of what is there.

    A structure below for the parameter of the iterator; 0 and 0 without one.
    """

    _fields_ = [*u64("info"), *u32("info_len")]


class IteratorMap(ctypes.Structure):
    """The map that an iterator goes over."""

    _fields_ = u32("map_fd")


class IteratorTask(ctypes.Structure):
    """The thread, or the process with all its threads, that an iterator goes over."""

    _fields_ = u32("tid", "pid", "pid_fd")


class IteratorCgroup(ctypes.Structure):
    """The cgroup that an iterator begins with; `order` is of `enum bpf_cgroup_iter_order`."""

    _fields_ = [*u32("order", "cgroup_fd"), *u64("cgroup_id")]


class LinkDetails(ctypes.Union):
    """The union of BPF_LINK_CREATE, a structure for each kind of link."""

    _fields_ = [
        ("iterator", IteratorLink),
        ("order", OrderedLink),
        ("perf_event", PerfEventLink),
        ("netfilter", NetfilterLink),
        ("kprobe_multi", KprobeMultiLink),
        ("tracing", TracingLink),
        ("uprobe_multi", UprobeMultiLink),
    ]


class LinkCreateAttr(ctypes.Structure):
    """BPF_LINK_CREATE."""

    _fields_ = [*u32("prog_fd", "target", "attach_type", "flags"), ("details", LinkDetails)]


class RawTracepointAttr(ctypes.Structure):
    """BPF_RAW_TRACEPOINT_OPEN; the kernel reads `cookie` since Linux 6.10."""

    _fields_ = [*u64("name"), *u32("prog_fd", "padding"), *u64("cookie")]


class LinkUpdateAttr(ctypes.Structure):
    """BPF_LINK_UPDATE."""

    _fields_ = u32("link_fd", "new_prog_fd", "flags", "old_prog_fd")


class LinkDetachAttr(ctypes.Structure):
    """BPF_LINK_DETACH."""

    _fields_ = u32("link_fd")


class IterCreateAttr(ctypes.Structure):
    """BPF_ITER_CREATE."""

    _fields_ = u32("link_fd", "flags")


class ProgBindMapAttr(ctypes.Structure):
    """BPF_PROG_BIND_MAP."""

    _fields_ = u32("prog_fd", "map_fd", "flags")


class EnableStatsAttr(ctypes.Structure):
    """BPF_ENABLE_STATS."""

    _fields_ = u32("type")


class ProgStreamReadAttr(ctypes.Structure):
    """BPF_PROG_STREAM_READ_BY_FD."""

    _fields_ = [*u64("stream_buf"), *u32("stream_buf_len", "stream_id", "prog_fd")]


class ProgAttachAttr(ctypes.Structure):
    """BPF_PROG_ATTACH and BPF_PROG_DETACH."""

    _fields_ = u32("target", "prog_fd", "attach_type", "flags", "old_prog_fd")


class ProgQueryAttr(ctypes.Structure):
    """BPF_PROG_QUERY."""

    _fields_ = [
        *u32("target", "attach_type", "query_flags", "attach_flags"),
        *u64("prog_ids"),
        *u32("count", "reserved"),
        *u64("prog_attach_flags", "link_ids", "link_attach_flags", "revision"),
    ]


class MapInfoAnswer(ctypes.Structure):
    """`struct bpf_map_info`."""

    _fields_ = [
        *u32("type", "id", "key_size", "value_size", "max_entries", "map_flags"),
        *name16("name"),
        *u32("ifindex", "btf_vmlinux_value_type_id"),
        *u64("netns_dev", "netns_ino"),
        *u32("btf_id", "btf_key_type_id", "btf_value_type_id", "btf_vmlinux_id"),
        *u64("map_extra"),
    ]


class ProgInfoAnswer(ctypes.Structure):
    """`struct bpf_prog_info`."""

    _fields_ = [
        *u32("type", "id"),
        ("tag", ctypes.c_uint8 * TAG_SIZE),
        *u32("jited_prog_len", "xlated_prog_len"),
        *u64("jited_prog_insns", "xlated_prog_insns", "load_time"),
        *u32("created_by_uid", "nr_map_ids"),
        *u64("map_ids"),
        *name16("name"),
        # The header has bit-fields of 1 and 31 bits: only bit 0 of `gpl_compatible` means
        # something.
        *u32("ifindex", "gpl_compatible"),
        *u64("netns_dev", "netns_ino"),
        *u32("nr_jited_ksyms", "nr_jited_func_lens"),
        *u64("jited_ksyms", "jited_func_lens"),
        *u32("btf_id", "func_info_rec_size"),
        *u64("func_info"),
        *u32("nr_func_info", "nr_line_info"),
        *u64("line_info", "jited_line_info"),
        *u32("nr_jited_line_info", "line_info_rec_size"),
        *u32("jited_line_info_rec_size", "nr_prog_tags"),
        *u64("prog_tags", "run_time_ns", "run_cnt", "recursion_misses"),
        # `reserved` is the padding that aligns the size of the structure to eight bytes.
        *u32("verified_insns", "attach_btf_obj_id", "attach_btf_id", "reserved"),
    ]


class LinkInfoAnswer(ctypes.Structure):
    """`struct bpf_link_info`; `place` is a union by link type."""

    # The longest members of the union, uprobe_multi and the kprobe of perf_event, have 48 bytes.
    # All of it is aligned to eight bytes, so that padding (`reserved`) precedes it.
    _fields_ = [*u32("type", "id", "prog_id", "reserved"), ("place", ctypes.c_uint8 * 48)]


class BtfInfoAnswer(ctypes.Structure):
    """`struct bpf_btf_info`."""

    _fields_ = [
        *u64("btf"),
        *u32("btf_size", "id"),
        *u64("name"),
        *u32("name_len", "kernel_btf"),
    ]
