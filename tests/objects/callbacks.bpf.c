/* Functions whose address is taken; one of them calls a global but hidden function. */
#include "common.h"

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

__noinline __attribute__((visibility("hidden"))) __u64 weight(__u64 value)
{
	return value * 2;
}

static long add(void *map, __u32 *key, __u64 *value, __u64 *sum)
{
	*sum += weight(*value);
	return 0;
}

static long step(__u32 index, __u64 *sum)
{
	*sum += index;
	return 0;
}

SEC("xdp")
int walk(struct xdp_md *context)
{
	__u64 sum = 0;

	bpf_for_each_map_elem(&counts, add, &sum, 0);
	bpf_loop(8, step, &sum, 0);
	return sum == 28 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
