/* A program of a cgroup whose map iproute2 would pin in its globals. */
#include "elf_map.h"

enum { CGROUP_ALLOW = 1 };

struct bpf_elf_map SEC("maps") packets = {
	.type = ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u64),
	.max_elem = 1,
	.pinning = 2,
};

SEC("cgroup_skb/egress")
int count_out(void *packet)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);

	if (counter)
		__sync_fetch_and_add(counter, 1);
	return CGROUP_ALLOW;
}

char _license[] SEC("license") = "GPL";
