/* A next version of reload_old whose counters have another form: they do not fit the pinned map. */
#include "common.h"

struct datarec {
	__u64 rx_bytes;
	__u64 rx_packets;
};

struct {
	__uint(type, PERCPU_ARRAY);
	__uint(max_entries, 5);
	__type(key, __u32);
	__type(value, struct datarec);
} xdp_stats_map SEC(".maps");

SEC("xdp")
int count_port(struct xdp_md *context)
{
	__u32 verdict = XDP_PASS;
	struct datarec *counter = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	if (counter)
		counter->rx_packets += 1;
	return verdict;
}

char _license[] SEC("license") = "GPL";
