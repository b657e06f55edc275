/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Counts what the sockets of a cgroup receive and send, one program a direction, into a map that
 * xdp_stats and tc_stats may share.
 *
 * Rows of that map are XDP verdicts. All packets pass here, so they are counted as XDP_PASS, both
 * directions in one row: attach one program, or each with a map of its own, to tell them apart.
 * Bytes begin with the IP header: a cgroup sees no Ethernet header.
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
 * A process that sends may be interrupted here by a packet that arrives on the same CPU and is
 * counted in the same record: hence atomic, though no other CPU writes it.
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
