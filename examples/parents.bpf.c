/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts the programs that are started, by the name of the process that starts them. */
#include <vmlinux.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct parent {
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct parent);
	__type(value, __u64);
} started SEC(".maps");

SEC("raw_tp/sched_process_exec")
int BPF_PROG(count, struct task_struct *task)
{
	struct parent parent = {};
	__u64 one = 1, *count;

	BPF_CORE_READ_STR_INTO(&parent.comm, task, real_parent, comm);
	count = bpf_map_lookup_elem(&started, &parent);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&started, &parent, &one, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
