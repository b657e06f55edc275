/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts packets and bytes as xdp_stats does, and how many of them were small; passes them all. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define VERDICTS (XDP_REDIRECT + 1)
#define SMALL 128

/* That of xdp_stats with one member more: the counts of the one go over to the other. */
struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
	__u64 rx_small;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, struct datarec);
} xdp_stats_map SEC(".maps");

SEC("xdp")
int xdp_sizes(struct xdp_md *ctx)
{
	__u32 verdict = XDP_PASS;
	__u64 bytes = ctx->data_end - ctx->data;
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	if (!record)
		return XDP_ABORTED;
	record->rx_packets++;
	record->rx_bytes += bytes;
	if (bytes < SMALL)
		record->rx_small++;
	return verdict;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
