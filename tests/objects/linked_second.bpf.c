/* The second of two units: a weak function that the other's takes the place of, and a variable. */
#include "linked.h"

struct {
	__uint(type, HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct total);
} by_device SEC(".maps");

int step = 4;
static __u64 rounds = 1;

__weak __noinline int weight(__u32 number)
{
	return number;
}

SEC("xdp")
int count_by_device(struct xdp_md *context)
{
	__u32 key = context->ingress_ifindex;
	struct total fresh = { weight(key) };

	rounds += 2;
	bpf_map_update_elem(&by_device, &key, &fresh, 0);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
