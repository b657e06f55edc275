/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A map definition for iproute2's own loader, which today's tc and ip no longer have. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct bpf_elf_map {
	__u32 type;
	__u32 size_key;
	__u32 size_value;
	__u32 max_elem;
	__u32 flags;
	__u32 id;
	__u32 pinning;
	__u32 inner_id;
	__u32 inner_idx;
};

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

struct bpf_elf_map SEC("maps") xdp_stats_map = {
	.type = BPF_MAP_TYPE_PERCPU_ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(struct datarec),
	.max_elem = XDP_REDIRECT + 1,
};

SEC("prog")
int xdp_count(struct xdp_md *ctx)
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
