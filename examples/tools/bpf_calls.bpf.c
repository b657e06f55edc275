/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Reports each call of bpf(2): who, which command, and what it returned. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct trace_event_raw_sys_enter {
	unsigned long args[6];
} __attribute__((preserve_access_index));

struct trace_event_raw_sys_exit {
	long ret;
} __attribute__((preserve_access_index));

struct event {
	__u32 pid;
	__u32 uid;
	__u32 command;
	int result; /* 0, a descriptor, or a negative errno */
	__u64 duration_ns;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__type(value, struct event);
} events SEC(".maps");

struct start {
	__u64 time;
	__u64 command;
};

/* The calls under way, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 10240);
	__type(key, __u64);
	__type(value, struct start);
} calls SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_bpf")
int enter(struct trace_event_raw_sys_enter *call)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct start start = { bpf_ktime_get_ns(), call->args[0] };

	bpf_map_update_elem(&calls, &thread, &start, BPF_ANY);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bpf")
int leave(struct trace_event_raw_sys_exit *call)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct start *start = bpf_map_lookup_elem(&calls, &thread);
	struct event *event;

	if (!start)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->pid = thread >> 32;
		event->uid = bpf_get_current_uid_gid();
		event->command = start->command;
		event->result = call->ret;
		event->duration_ns = bpf_ktime_get_ns() - start->time;
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&calls, &thread);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
