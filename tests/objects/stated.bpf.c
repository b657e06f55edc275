/* Maps whose entries a state file gives: a list of prefixes, ports, limits, and inner maps. */
#include "common.h"

enum { LPM_TRIE = 11, NO_PREALLOC = 1 };

struct prefix {
	__u32 prefixlen;
	unsigned char data[4];
};

struct {
	__uint(type, LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
} blocked SEC(".maps");

struct flow {
	__u16 port;
	__u16 zone;
};

struct limit {
	__u64 rate;
	struct {
		__u32 burst;
		__u32 grace;
	} inner;
};

struct {
	__uint(type, HASH);
	__uint(max_entries, 4);
	__type(key, struct flow);
	__type(value, struct limit);
} limits SEC(".maps");

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} choices SEC(".maps");

struct {
	__uint(type, ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	struct {
		__uint(type, HASH);
		__uint(max_entries, 8);
		__type(key, __u32);
		__type(value, __u32);
	} *values[];
} lists SEC(".maps");

struct {
	__uint(type, HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

const volatile __u32 answer = 42;

/* Drop UDP and TCP over IPv4 from a blocked prefix, and to a port of the inner map in slot 0. */
SEC("xdp")
int stated(struct xdp_md *context)
{
	unsigned char *data = (unsigned char *)(long)context->data;
	unsigned char *end = (unsigned char *)(long)context->data_end;
	struct prefix address = { .prefixlen = 32 };
	struct flow flow = {};
	__u32 zero = 0, port;
	__u64 one = 1;
	void *list;

	if (!answer)
		return XDP_ABORTED;
	if (data + 14 + 20 + 8 > end || data[12] != 8 || data[13] != 0)
		return XDP_PASS;
	if (data[23] != 17 && data[23] != 6)
		return XDP_PASS;
	for (int at = 0; at < 4; at++)
		address.data[at] = data[26 + at];
	port = data[36] << 8 | data[37];
	flow.port = port;
	bpf_map_update_elem(&seen, &port, &one, 0);
	if (bpf_map_lookup_elem(&blocked, &address) || bpf_map_lookup_elem(&limits, &flow))
		return XDP_DROP;
	bpf_map_lookup_elem(&choices, &zero);
	list = bpf_map_lookup_elem(&lists, &zero);
	if (list && bpf_map_lookup_elem(list, &port))
		return XDP_DROP;
	return XDP_PASS;
}

