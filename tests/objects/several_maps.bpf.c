/* Two maps whose names are not in the order of the file, and global data of two kinds. */
#include "common.h"

static const volatile __u32 step = 1;
static __u64 runs;

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} zebra SEC(".maps");

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ant SEC(".maps");

static __always_inline void add(void *map)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(map, &zero);

	if (counter)
		*counter += step;
}

SEC("xdp")
int count_twice(struct xdp_md *context)
{
	add(&zebra);
	add(&ant);
	runs++;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
