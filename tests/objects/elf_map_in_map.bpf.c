/* Maps in maps as iproute2 defines them: the outer ones name the id of what they hold. */
#include "elf_map.h"

enum { HASH_OF_MAPS = 13 };

struct bpf_elf_map SEC("maps") by_index = {
	.type = ARRAY_OF_MAPS,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u32),
	.max_elem = 3,
	.inner_id = 42,
};

struct bpf_elf_map SEC("maps") by_number = {
	.type = HASH_OF_MAPS,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u32),
	.max_elem = 8,
	.inner_id = 42,
};

#define INNER(name, index) struct bpf_elf_map SEC("maps") name = { \
	.type = ARRAY, \
	.size_key = sizeof(__u32), \
	.size_value = sizeof(__u64), \
	.max_elem = 2, \
	.id = 42, \
	.inner_idx = index, \
}

INNER(blue, 0);
INNER(red, 2);
INNER(spare, -1); /* in no other map */

static __always_inline void add(void *outer, __u32 index, __u64 number)
{
	void *inner = bpf_map_lookup_elem(outer, &index);
	__u32 zero = 0;
	__u64 *counter = inner ? bpf_map_lookup_elem(inner, &zero) : 0;

	if (counter)
		*counter += number;
}

SEC("xdp")
int count_inside(struct xdp_md *context)
{
	add(&by_index, 0, 1);
	add(&by_index, 1, 10); /* an empty entry */
	add(&by_index, 2, 100);
	add(&by_number, 2, 1000);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
