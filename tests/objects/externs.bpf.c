/* A call of a function that only the kernel could have. */
#include "common.h"

extern int kernel_only(__u32 amount) SEC(".ksyms");

SEC("xdp")
int calls_kernel(struct xdp_md *context)
{
	return kernel_only(1) ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
