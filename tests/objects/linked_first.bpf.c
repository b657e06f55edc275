/* The first of two units: a strong function and the map; the program calls over to the second. */
#include "linked.h"

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct total);
} totals SEC(".maps");

const volatile __u32 factor = 3;
static __u64 rounds;

__noinline int weight(__u32 number)
{
	return number * factor;
}

SEC("xdp")
int count(struct xdp_md *context)
{
	__u32 key = 0;
	struct total *total = bpf_map_lookup_elem(&totals, &key);

	if (total)
		total->packets += weight(context->ingress_ifindex + step);
	rounds += 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
