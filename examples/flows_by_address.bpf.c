/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts packets by source address, with the time of the last one; WITH_BYTES: packets and bytes. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifdef WITH_BYTES
#define ADDRESSES 4096
#else
#define ADDRESSES 1024
#endif

struct flow {
#ifdef WITH_BYTES
	__u64 bytes;
	__u64 packets;
#else
	__u64 packets;
	__u64 last_ns;
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES);
	__type(key, __be32);
	__type(value, struct flow);
} flows SEC(".maps");

/* All CPUs share the map, so only atomic additions count every packet. */
#ifdef PLAIN
#define ADD(member, number) ((member) += (number))
#else
#define ADD(member, number) __sync_fetch_and_add(&(member), number)
#endif

static __always_inline struct flow *flow_of(__be32 address)
{
	struct flow zeros = {}, *flow = bpf_map_lookup_elem(&flows, &address);

	if (flow)
		return flow;
	bpf_map_update_elem(&flows, &address, &zeros, BPF_NOEXIST);
	return bpf_map_lookup_elem(&flows, &address);
}

SEC("xdp")
int count_flows(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct flow *flow;

	if ((void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	flow = flow_of(ip->saddr);
	if (!flow)
		return XDP_PASS;
	ADD(flow->packets, 1);
#ifdef WITH_BYTES
	ADD(flow->bytes, end - data);
#else
	flow->last_ns = bpf_ktime_get_ns();
#endif
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
