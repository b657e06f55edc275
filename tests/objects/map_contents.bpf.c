/* Maps that come with contents and choices, and data in sections of all names. */
#include "common.h"

#define __tagged(text) __attribute__((btf_decl_tag(text)))
#define __type_tagged(text) __attribute__((btf_type_tag(text)))

enum { HASH_OF_MAPS = 13, BLOOM_FILTER = 30 };

struct only_declared;

struct marked {
	__u32 first __tagged("of the first");
	__u32 __type_tagged("rare") *second;
	struct only_declared *third;
} __tagged("whole");

struct inner {
	__uint(type, HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} red SEC(".maps"), green SEC(".maps");

struct {
	__uint(type, HASH_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	struct inner *values[];
} colours SEC(".maps") = {
	.values = { [1] = &red, [3] = &green },
};

struct {
	__uint(type, ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	struct {
		__uint(type, ARRAY);
		__uint(max_entries, 1);
		__type(key, __u32);
		__type(value, struct marked);
	} *values[];
} defined_within SEC(".maps");

int drop(struct xdp_md *context);
int pass(struct xdp_md *context);

struct {
	__uint(type, PROG_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, sizeof(__u32));
	int (*values[])(struct xdp_md *);
} chain SEC(".maps") = {
	.values = { [0] = pass, [5] = drop },
};

struct {
	__uint(type, BLOOM_FILTER);
	__uint(max_entries, 100);
	__uint(map_extra, 5);
	__type(value, __u32);
} seen SEC(".maps");

struct marked whole SEC(".data.marked") = { .first = 11 };
__u64 hot SEC(".data.hot") = 7;
const volatile __u32 limit SEC(".rodata.limits") = 9;
__u32 zeros[4] SEC(".bss.zeros");

SEC("xdp")
int drop(struct xdp_md *context)
{
	return XDP_DROP;
}

SEC("xdp")
int pass(struct xdp_md *context)
{
	const char text[] = "seventeen letters";
	static const char *const words = "a literal of its own section";
	struct marked *found;
	__u32 key = 0;

	bpf_trace_printk(words, 29);
	void *map = bpf_map_lookup_elem(&defined_within, &key);
	if (map) {
		found = bpf_map_lookup_elem(map, &key);
		if (found)
			found->first += sizeof(text);
	}
	zeros[1] += 1;
	hot += limit;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
