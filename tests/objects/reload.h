/* What the objects of the reload tests share: counters of UDP packets to one port over IPv4. */
#pragma once
#include "common.h"

#define PORT 9999

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

/* Indexed by the program's verdict; kept by every reload. */
struct {
	__uint(type, PERCPU_ARRAY);
	__uint(max_entries, 5);
	__type(key, __u32);
	__type(value, struct datarec);
} xdp_stats_map SEC(".maps");

__u64 packets_seen; /* in .bss, which a reload keeps too */

/* Return the source port of a UDP packet to PORT in network order, 0 for any other packet. */
static __always_inline __u32 source_port(struct xdp_md *context)
{
	unsigned char *data = (unsigned char *)(long)context->data;
	unsigned char *end = (unsigned char *)(long)context->data_end;

	if (data + 14 + 20 + 8 > end)
		return 0;
	/* Ethernet type IPv4, a header without options, protocol UDP, the port. */
	if (data[12] != 8 || data[13] != 0 || data[14] != 0x45 || data[23] != 17)
		return 0;
	if (data[36] != PORT >> 8 || data[37] != (PORT & 0xff))
		return 0;
	return data[35] << 8 | data[34];
}

/* Count the packet and drop it: one that reaches a socket was seen by no program. */
static __always_inline int counted(struct xdp_md *context)
{
	__u32 verdict = XDP_DROP;
	struct datarec *counter = bpf_map_lookup_elem(&xdp_stats_map, &verdict);

	if (!counter)
		return XDP_ABORTED;
	counter->rx_packets += 1;
	counter->rx_bytes += context->data_end - context->data;
	__sync_fetch_and_add(&packets_seen, 1);
	return XDP_DROP;
}
