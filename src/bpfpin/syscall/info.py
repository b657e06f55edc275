"""What BPF_OBJ_GET_INFO_BY_FD fills in: the structures of linux/bpf.h.

Pointers and counts left zero ask for nothing but the numbers.
"""

from __future__ import annotations

import ctypes

from bpfpin.syscall.attr import name16, u32, u64
from bpfpin.uapi import TAG_SIZE


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
        *u32("verified_insns", "attach_btf_obj_id", "attach_btf_id", "reserved"),
    ]


class LinkInfoAnswer(ctypes.Structure):
    """`struct bpf_link_info`; what `place` means depends on the type."""

    _fields_ = [*u32("type", "id", "prog_id", "reserved"), ("place", ctypes.c_uint8 * 48)]


class BtfInfoAnswer(ctypes.Structure):
    """`struct bpf_btf_info`."""

    _fields_ = [
        *u64("btf"),
        *u32("btf_size", "id"),
        *u64("name"),
        *u32("name_len", "kernel_btf"),
    ]
