/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts packets and bytes per verdict and CPU, and returns the verdict stored in `action`. */
#include <linux/bpf.h>

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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} action SEC(".maps");

/*
 * An array is zero until it is written. Zero is XDP_ABORTED, so zero passes packets here instead.
 * The entry is read once (volatile), because it may change between the test and the use.
 */
static __always_inline __u32 chosen_verdict(void)
{
	__u32 key = 0;
	volatile __u32 *entry = bpf_map_lookup_elem(&action, &key);
	__u32 verdict = entry ? *entry : XDP_PASS;

	if (verdict == XDP_ABORTED || verdict >= VERDICTS)
		return XDP_PASS;
	return verdict;
}

SEC("xdp")
int xdp_stats(struct xdp_md *ctx)
{
	__u32 verdict = chosen_verdict();
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	if (!record)
		return XDP_ABORTED;
	record->rx_packets++;
	record->rx_bytes += ctx->data_end - ctx->data;
	return verdict;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
