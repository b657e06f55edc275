/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Reports each TCP connection that a process opens: where to, and how long until the answer. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define AF_INET6 10
enum { ESTABLISHED = 1, SYN_SENT = 2 }; /* TCP_ESTABLISHED, TCP_SYN_SENT */

struct trace_event_raw_inet_sock_set_state {
	const void *skaddr;
	int oldstate;
	int newstate;
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u8 saddr[4];
	__u8 daddr[4];
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
} __attribute__((preserve_access_index));

struct event {
	__u64 duration_ns; /* until the answer came, or none */
	__u32 pid;
	__u16 family;
	__u16 port;
	__u8 is_established;
	char comm[16];
	__u8 address[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
	__type(value, struct event);
} events SEC(".maps");

struct start {
	__u64 time;
	__u32 pid;
	char comm[16];
};

/* The connections that wait for an answer, by socket. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 10240);
	__type(key, const void *);
	__type(value, struct start);
} waiting SEC(".maps");

SEC("tracepoint/sock/inet_sock_set_state")
int changed(struct trace_event_raw_inet_sock_set_state *record)
{
	const void *socket = record->skaddr;
	struct start new = {}, *start;
	struct event *event;

	if (record->newstate == SYN_SENT) { /* in the process that connects; the answer is not */
		new.time = bpf_ktime_get_ns();
		new.pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(new.comm, sizeof(new.comm));
		bpf_map_update_elem(&waiting, &socket, &new, BPF_ANY);
		return 0;
	}
	start = bpf_map_lookup_elem(&waiting, &socket);
	if (record->oldstate != SYN_SENT || !start)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->duration_ns = bpf_ktime_get_ns() - start->time;
		event->pid = start->pid;
		event->family = record->family;
		event->port = record->dport;
		event->is_established = record->newstate == ESTABLISHED;
		__builtin_memcpy(event->comm, start->comm, sizeof(event->comm));
		if (event->family == AF_INET6)
			BPF_CORE_READ_INTO(&event->address, record, daddr_v6);
		else
			BPF_CORE_READ_INTO((__u8(*)[4])event->address, record, daddr);
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&waiting, &socket);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
