/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts packets and bytes like xdp_stats, and also small packets; passes every packet. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define VERDICTS (XDP_REDIRECT + 1)
#define SMALL 128

/* The value of xdp_stats with one more member, so that its counts can be migrated to this one. */
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
