/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A counter in three versions: plain, with one more map (WITH_SIZES), with a longer value (WITH_TIME). */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
#ifdef WITH_TIME
	__u64 last_ns;
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDP_REDIRECT + 1);
	__type(key, __u32);
	__type(value, struct datarec);
} xdp_stats_map SEC(".maps");

#ifdef WITH_SIZES
/* How many packets were of 0 to 63 bytes, of 64 to 127, and so on. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 32);
	__type(key, __u32);
	__type(value, __u64);
} sizes SEC(".maps");

static __always_inline void count_size(__u64 bytes)
{
	__u32 slot = bytes / 64 < 32 ? bytes / 64 : 31;
	__u64 *packets = bpf_map_lookup_elem(&sizes, &slot);

	if (packets)
		++*packets;
}
#endif

SEC("xdp")
int count_packets(struct xdp_md *ctx)
{
	__u32 verdict = XDP_PASS;
	__u64 bytes = ctx->data_end - ctx->data;
	struct datarec *record = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	if (!record)
		return XDP_ABORTED;
	record->rx_packets++;
	record->rx_bytes += bytes;
#ifdef WITH_TIME
	record->last_ns = bpf_ktime_get_ns();
#endif
#ifdef WITH_SIZES
	count_size(bytes);
#endif
	return verdict;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
