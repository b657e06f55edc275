/* Maps defined by their BTF: sizes, types, pinning, an inner map with values, a program array. */
#include "common.h"

struct record {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct record);
	__uint(pinning, 1);
} flows SEC(".maps");

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 24);
} bytes_only SEC(".maps");

struct inner {
	__uint(type, ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u32);
	struct inner *values[3];
} outer SEC(".maps") = {
	.values = { [0] = &first, [2] = &second },
};

int tail(struct xdp_md *context);

struct {
	__uint(type, PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	int (*values[2])(struct xdp_md *);
} jumps SEC(".maps") = {
	.values = { [1] = tail },
};

SEC("xdp")
int tail(struct xdp_md *context)
{
	return XDP_DROP;
}

SEC("xdp")
int count_flows(struct xdp_md *context)
{
	__u32 key = context->ingress_ifindex;
	struct record fresh = { 1, context->data_end - context->data };
	struct record *found = bpf_map_lookup_elem(&flows, &key);

	if (!found) {
		bpf_map_update_elem(&flows, &key, &fresh, 0);
		return XDP_PASS;
	}
	found->packets += 1;
	found->bytes += fresh.bytes;
	key = 0;
	void *map = bpf_map_lookup_elem(&outer, &key);
	if (!map)
		return XDP_PASS;
	__u64 *value = bpf_map_lookup_elem(map, &key);
	if (value)
		*value += 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
