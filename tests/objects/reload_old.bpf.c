/* The object that is loaded first: it also keeps the last source port, in a map that goes away. */
#include "reload.h"

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} last_port SEC(".maps");

SEC("xdp")
int count_port(struct xdp_md *context)
{
	__u32 port = source_port(context);
	__u32 zero = 0;

	if (!port)
		return XDP_PASS;
	bpf_map_update_elem(&last_port, &zero, &port, 0);
	return counted(context);
}

char _license[] SEC("license") = "GPL";
