/* Drops every packet: what must not reach a device that carries one's own way in. */
#include "common.h"

SEC("xdp")
int drop_all(struct xdp_md *context)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
