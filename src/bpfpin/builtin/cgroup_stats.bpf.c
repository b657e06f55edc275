/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Counts the packets that the sockets of a cgroup receive and send, with one program for each
 * direction. The map can be shared with xdp_stats and tc_stats.
 *
 * The rows of the map are XDP verdicts. All packets pass here, so both directions are counted in
 * the row XDP_PASS. To count them separately, attach one program, or give each its own map.
 * Bytes start at the IP header, because a cgroup program sees no Ethernet header.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define VERDICTS (XDP_REDIRECT + 1)
#define ALLOW 1

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

/*
 * The additions are atomic although no other CPU writes the record: a received packet that is
 * counted in the same record can interrupt a sending process on the same CPU.
 */
static __always_inline int count(struct __sk_buff *skb)
{
	__u32 row = XDP_PASS;
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &row);

	if (record) {
		__sync_fetch_and_add(&record->rx_packets, 1);
		__sync_fetch_and_add(&record->rx_bytes, skb->len);
	}
	return ALLOW;
}

SEC("cgroup_skb/ingress")
int cgroup_ingress(struct __sk_buff *skb)
{
	return count(skb);
}

SEC("cgroup_skb/egress")
int cgroup_egress(struct __sk_buff *skb)
{
	return count(skb);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
