/* Two maps as libbpf before 1.0 defined them, in one section, out of address order by name. */
#include "common.h"

struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};

struct bpf_map_def SEC("maps") packets = {
	.type = PERCPU_ARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(__u64),
	.max_entries = 5,
};

struct bpf_map_def SEC("maps") action = {
	.type = ARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(__u32),
	.max_entries = 1,
};

SEC("xdp")
int count_packets(struct xdp_md *context)
{
	__u32 zero = 0;
	__u32 *wanted = bpf_map_lookup_elem(&action, &zero);
	__u32 verdict = wanted && *wanted ? *wanted : XDP_PASS;
	__u64 *counter = bpf_map_lookup_elem(&packets, &verdict);

	if (counter)
		*counter += 1;
	return verdict;
}

char _license[] SEC("license") = "GPL";
