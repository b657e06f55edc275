/* Counts UDP packets to port 9999 over IPv4, and drops them when `verdict` says so. */
#include "common.h"

#define PORT 9999

struct {
	__uint(type, PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} verdict SEC(".maps");

SEC("xdp")
int count_port(struct xdp_md *context)
{
	unsigned char *data = (unsigned char *)(long)context->data;
	unsigned char *end = (unsigned char *)(long)context->data_end;
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);
	__u32 *wanted = bpf_map_lookup_elem(&verdict, &zero);

	if (data + 14 + 20 + 8 > end || !counter || !wanted)
		return XDP_PASS;
	/* Ethernet type IPv4, a header without options, protocol UDP, the port. */
	if (data[12] != 8 || data[13] != 0 || data[14] != 0x45 || data[23] != 17)
		return XDP_PASS;
	if (data[36] != PORT >> 8 || data[37] != (PORT & 0xff))
		return XDP_PASS;
	*counter += 1;
	return *wanted ? *wanted : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
