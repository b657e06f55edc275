/* Counts UDP packets to one port over IPv4 by atomic additions, in a map for each CPU and in a shared
 * one; with NEXT_VERSION the values have another layout.
 */
#include "common.h"

#define PORT 9999

struct counter {
#ifdef NEXT_VERSION
	__u32 version;
	__u32 reserved;
	__u64 bytes;
	__u64 packets;
#else
	__u64 packets;
	__u64 bytes;
#endif
};

struct {
	__uint(type, PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counter);
} by_cpu SEC(".maps");

struct {
	__uint(type, HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct counter);
} shared SEC(".maps");

static __always_inline void count(void *map, __u64 bytes)
{
	__u32 zero = 0;
	struct counter zeros = {}, *counter = bpf_map_lookup_elem(map, &zero);

	if (!counter) {
		bpf_map_update_elem(map, &zero, &zeros, 1);
		counter = bpf_map_lookup_elem(map, &zero);
	}
	if (!counter)
		return;
	__sync_fetch_and_add(&counter->packets, 1);
	__sync_fetch_and_add(&counter->bytes, bytes);
}

SEC("xdp")
int count_port(struct xdp_md *context)
{
	unsigned char *data = (unsigned char *)(long)context->data;
	unsigned char *end = (unsigned char *)(long)context->data_end;

	if (data + 14 + 20 + 8 > end)
		return XDP_PASS;
	/* Ethernet type IPv4, a header without options, protocol UDP, the port. */
	if (data[12] != 8 || data[13] != 0 || data[14] != 0x45 || data[23] != 17)
		return XDP_PASS;
	if (data[36] != PORT >> 8 || data[37] != (PORT & 0xff))
		return XDP_PASS;
	count(&by_cpu, end - data);
	count(&shared, end - data);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
