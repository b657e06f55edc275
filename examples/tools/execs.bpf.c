/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Reports each program that is executed, with its process and parent. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
	struct task_struct *real_parent;
	int tgid;
	char comm[16];
} __attribute__((preserve_access_index));

struct trace_event_raw_sched_process_exec {
	__u32 __data_loc_filename; /* where the name is in the record, below its length */
} __attribute__((preserve_access_index));

struct event {
	__u32 pid;
	__u32 uid;
	int parent;
	char parent_comm[16];
	char path[228];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
	__type(value, struct event);
} events SEC(".maps");

SEC("tracepoint/sched/sched_process_exec")
int executed(struct trace_event_raw_sched_process_exec *record)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->uid = bpf_get_current_uid_gid();
	event->parent = BPF_CORE_READ(task, real_parent, tgid);
	BPF_CORE_READ_STR_INTO(&event->parent_comm, task, real_parent, comm);
	bpf_probe_read_kernel_str(event->path, sizeof(event->path),
				  (void *)record + (record->__data_loc_filename & 0xffff));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
