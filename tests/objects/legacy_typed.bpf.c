/* A map of the old form, whose value is a structure that the object's BTF knows by a function. */
#include "common.h"

struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

struct three {
	__u64 a, b, c;
};

static __u64 hits;

struct bpf_map_def SEC("maps") xdp_stats_map = {
	.type = PERCPU_ARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(struct datarec),
	.max_entries = 5,
};

__noinline int count(struct datarec *rec, struct three *three)
{
	if (!rec || !three)
		return 1;
	rec->rx_packets++;
	three->c++;
	return 0;
}

SEC("xdp")
int stats(struct xdp_md *context)
{
	__u32 key = XDP_PASS;
	struct datarec *rec = bpf_map_lookup_elem(&xdp_stats_map, &key);
	struct three three = {};

	if (!rec)
		return XDP_ABORTED;
	hits += 1;
	count(rec, &three);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
