/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A counter for tc. Its map is pinned by name, so that other programs can count into it too. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDP_REDIRECT + 1);
	__type(key, __u32);
	__type(value, struct datarec);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} xdp_stats_map SEC(".maps");

SEC("tc")
int count_packets(struct __sk_buff *skb)
{
	__u32 row = XDP_PASS;
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &row);

	if (record) {
		record->rx_packets++;
		record->rx_bytes += skb->len;
	}
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
