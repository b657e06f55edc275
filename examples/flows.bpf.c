/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts IPv4 packets by source and protocol, and sends an event to user space for each new pair. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum protocol { ICMP = 1, TCP = 6, UDP = 17 };

struct flow {
	__be32 saddr;
	enum protocol protocol;
};

struct counter {
	__u64 packets;
	__u64 bytes;
	__u64 last_ns;
};

struct event {
	__u64 at_ns;
	__be32 saddr;
	enum protocol protocol;
};

const struct event *unused_event; /* puts the type into the BTF, for bpfpin map events --type */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow);
	__type(value, struct counter);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

static __always_inline void send_event(const struct flow *flow)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return;
	event->at_ns = bpf_ktime_get_ns();
	event->saddr = flow->saddr;
	event->protocol = flow->protocol;
	bpf_ringbuf_submit(event, 0);
}

SEC("xdp")
int count_flows(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct counter first = {}, *counter;
	struct flow flow = {};

	if ((void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	flow.saddr = ip->saddr;
	flow.protocol = ip->protocol;
	counter = bpf_map_lookup_elem(&flows, &flow);
	if (!counter) {
		send_event(&flow);
		bpf_map_update_elem(&flows, &flow, &first, BPF_NOEXIST);
		counter = bpf_map_lookup_elem(&flows, &flow);
	}
	if (!counter)
		return XDP_PASS;
	__sync_fetch_and_add(&counter->packets, 1);
	__sync_fetch_and_add(&counter->bytes, end - data);
	counter->last_ns = bpf_ktime_get_ns();
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
