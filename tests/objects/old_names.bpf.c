/* Section names of the time before libbpf 1.0. */
#include "common.h"

SEC("xdp_pass")
int old_xdp(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("xdp_stats1")
int old_xdp_stats(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("classifier")
int old_classifier(void *context)
{
	return 0;
}

SEC("action")
int old_action(void *context)
{
	return 0;
}

SEC("tc_ingress")
int old_tc(void *context)
{
	return 0;
}

SEC("socket")
int old_socket(void *context)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
