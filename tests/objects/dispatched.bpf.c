/* Two programs that libxdp's dispatcher can call one after the other. */
#include "common.h"

SEC("xdp")
int first_of_two(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("xdp")
int second_of_two(struct xdp_md *context)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
