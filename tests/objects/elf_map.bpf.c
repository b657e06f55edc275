/* A map as iproute2 defines it. */
#include "elf_map.h"

struct bpf_elf_map SEC("maps") packets = {
	.type = ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u64),
	.max_elem = 1,
	.pinning = 2,
};

SEC("xdp")
int count_packets(struct xdp_md *context)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);

	if (counter)
		__sync_fetch_and_add(counter, 1);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
