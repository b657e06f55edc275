/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Reports each file that a process opens by openat(2), and what the call returned. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Of the kernel's records only the members that are read; CO-RE finds where they are. */
struct trace_event_raw_sys_enter {
	unsigned long args[6];
} __attribute__((preserve_access_index));

struct trace_event_raw_sys_exit {
	long ret;
} __attribute__((preserve_access_index));

struct event {
	__u32 pid;
	int result; /* a descriptor, or a negative errno */
	char comm[16];
	char path[232];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__type(value, struct event);
} events SEC(".maps");

/* The paths that the calls under way were given, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 10240);
	__type(key, __u64);
	__type(value, const char *);
} paths SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(struct trace_event_raw_sys_enter *call)
{
	__u64 thread = bpf_get_current_pid_tgid();
	const char *path = (const char *)call->args[1];

	bpf_map_update_elem(&paths, &thread, &path, BPF_ANY);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int leave(struct trace_event_raw_sys_exit *call)
{
	__u64 thread = bpf_get_current_pid_tgid();
	const char **path = bpf_map_lookup_elem(&paths, &thread);
	struct event *event;

	if (!path)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->pid = thread >> 32;
		event->result = call->ret;
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		/* At the end of the call: the page with the path was read by the kernel, and is there. */
		if (bpf_probe_read_user_str(event->path, sizeof(event->path), *path) < 0)
			event->path[0] = 0;
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&paths, &thread);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
