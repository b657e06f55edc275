/* The verifier refuses this one: the result of a lookup is used without a NULL check. */
#include "common.h"

struct {
	__uint(type, HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

SEC("xdp")
int unchecked(struct xdp_md *context)
{
	__u32 key = 1;
	__u64 *counter = bpf_map_lookup_elem(&flows, &key);

	*counter += 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
