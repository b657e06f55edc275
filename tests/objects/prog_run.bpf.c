/* What a test run gives back: changed packets and contexts, a verdict, real packets. */
#include "common.h"

/* The beginning of the structure in linux/bpf.h. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 other[9];
	__u32 cb[5];
};

static __u32 (*bpf_get_smp_processor_id)(void) = (void *)8;

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} places SEC(".maps");

SEC("xdp")
int stamp(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data;
	unsigned char *end = (void *)(long)context->data_end;
	__u32 zero = 0;
	__u64 *place = bpf_map_lookup_elem(&places, &zero);

	if (data + 14 > end)
		return XDP_ABORTED;
	if (place)
		*place = (__u64)bpf_get_smp_processor_id() << 32 | context->ingress_ifindex;
	data[13] = 0x42;
	return data[12] ? 3 /* XDP_TX */ : XDP_DROP;
}

SEC("tc")
int mark(struct __sk_buff *packet)
{
	packet->mark += 1;
	packet->cb[0] = packet->len;
	return -1;
}

SEC("syscall")
int add(__u32 *numbers)
{
	numbers[1] = numbers[0] + 1;
	return 7;
}

char _license[] SEC("license") = "GPL";
