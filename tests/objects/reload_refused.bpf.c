/* A next version of reload_old that the verifier refuses: a lookup without a NULL check. */
#include "reload.h"

SEC("xdp")
int count_port(struct xdp_md *context)
{
	__u32 verdict = XDP_DROP;
	struct datarec *counter = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	counter->rx_packets += 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
