/* Subprograms in .text, in a section of their own and beside the program, called in every way. */
#include "common.h"

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

__noinline int note(__u32 amount)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&calls, &zero);

	if (counter)
		*counter += amount;
	return amount;
}

static __noinline int twice(__u32 amount)
{
	return note(amount) + note(amount + 1);
}

static __noinline __attribute__((section("helpers"))) int apart(__u32 amount)
{
	return twice(amount) * 2;
}

static __noinline __attribute__((section("xdp"))) int beside(__u32 amount)
{
	return note(amount) + 3;
}

SEC("xdp")
int caller(struct xdp_md *context)
{
	int sum = twice(context->data_end - context->data) + apart(4) + beside(5);

	return sum & 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int other_caller(struct xdp_md *context)
{
	return note(1) + beside(2) > 0 ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int alone(struct xdp_md *context)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
