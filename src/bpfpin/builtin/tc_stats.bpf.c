/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Counts what passes a tc hook into a map that xdp_stats and cgroup_stats may share.
 *
 * Rows of that map are XDP verdicts. All packets pass here, so they are counted as XDP_PASS, and
 * the other rows stay those of an XDP program. A packet is what the kernel handles as one: up to
 * 64 KiB that a card is to cut later, or has joined. Bytes include the Ethernet header, as in XDP.
 *
 * The section has libbpf's oldest name for tc: it gives no direction, and every libbpf loads it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#define VERDICTS (XDP_REDIRECT + 1)

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

SEC("tc")
int tc_stats(struct __sk_buff *skb)
{
	__u32 row = XDP_PASS;
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &row);

	if (record) {
		record->rx_packets++;
		record->rx_bytes += skb->len;
	}
	return TC_ACT_UNSPEC; /* the next program or filter decides, if there is one */
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
