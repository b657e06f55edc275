/* One program whose field offsets depend on the running kernel, and one whose don't. */
#include "common.h"

struct net_device {
	int ifindex;
} __attribute__((preserve_access_index));

struct ctx {
	struct net_device *device;
};

SEC("xdp")
int plain(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("raw_tp/netif_rx")
int relocated(struct ctx *context)
{
	return context->device->ifindex;
}

char _license[] SEC("license") = "GPL";
