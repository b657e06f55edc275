/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A map definition as in tutorials before libbpf 1.0; libbpf 1.0 and later refuse it. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

struct bpf_map_def SEC("maps") xdp_stats_map = {
	.type = BPF_MAP_TYPE_PERCPU_ARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(struct datarec),
	.max_entries = XDP_REDIRECT + 1,
};

SEC("xdp_stats1")
int xdp_stats1_func(struct xdp_md *ctx)
{
	__u32 verdict = XDP_PASS;
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	if (!record)
		return XDP_ABORTED;
	record->rx_packets++;
	record->rx_bytes += ctx->data_end - ctx->data;
	return verdict;
}

char _license[] SEC("license") = "GPL";
