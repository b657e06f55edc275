/* A value of the kernel's configuration, which only a loader could fill in. */
#include "common.h"

extern int LINUX_KERNEL_VERSION __attribute__((section(".kconfig")));

SEC("xdp")
int asks_version(struct xdp_md *context)
{
	return LINUX_KERNEL_VERSION > 0x060100 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
