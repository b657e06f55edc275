/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts packets and bytes like xdp_stats, and also per IP protocol; passes every packet. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VERDICTS (XDP_REDIRECT + 1)
#define PROTOCOLS 256

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, struct datarec);
} xdp_stats_map SEC(".maps");

/* The key is IPv4's protocol or IPv6's next header: 1 is ICMP, 6 is TCP, 17 is UDP. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROTOCOLS);
	__type(key, __u32);
	__type(value, struct datarec);
} protocols SEC(".maps");

static __always_inline void count(void *map, __u32 key, __u64 bytes)
{
	struct datarec *record = bpf_map_lookup_elem(map, &key);

	if (!record)
		return;
	record->rx_packets++;
	record->rx_bytes += bytes;
}

/* Returns the protocol of an IP packet, or -1 for other packets. */
static __always_inline int protocol_of(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ip6 = (void *)(ethernet + 1);

	if ((void *)(ethernet + 1) > end)
		return -1;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end)
		return ip->protocol;
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end)
		return ip6->nexthdr;
	return -1;
}

SEC("xdp")
int xdp_protocols(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 bytes = end - data;
	int protocol = protocol_of(data, end);

	count(&xdp_stats_map, XDP_PASS, bytes);
	if (protocol >= 0)
		count(&protocols, protocol, bytes);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
