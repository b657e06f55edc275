/* A next version of reload_old with a map of 256 GiB, more than a load may take unasked. */
#include "reload.h"

struct page {
	__u64 seen;
	__u64 others[511];
};

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1 << 26);
	__type(key, __u32);
	__type(value, struct page);
} history SEC(".maps");

SEC("xdp")
int count_port(struct xdp_md *context)
{
	__u32 port = source_port(context);
	__u64 *seen = bpf_map_lookup_elem(&history, &port);

	if (!port)
		return XDP_PASS;
	if (seen)
		__sync_fetch_and_add(seen, 1);
	return counted(context);
}

char _license[] SEC("license") = "GPL";
