/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Counts the packets at a tc hook. The map can be shared with xdp_stats and cgroup_stats.
 *
 * The rows of the map are XDP verdicts. All packets pass here and are counted in the row XDP_PASS;
 * an XDP program can use the other rows. A packet can have up to 64 KiB, if the network card
 * segments it later or has merged it (GSO, GRO). Bytes include the Ethernet header, as in XDP.
 *
 * The section has libbpf's oldest name for tc: it names no direction, and every libbpf loads it.
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
