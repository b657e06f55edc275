/* A program of tc and one of XDP that share a map by its name. */
#include "common.h"

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, 1);
} packets SEC(".maps");

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

SEC("tc")
int count_after(void *packet)
{
	count();
	return 0;
}

SEC("xdp")
int count_before(struct xdp_md *context)
{
	count();
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
