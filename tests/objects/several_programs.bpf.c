/* Programs of several types and several in one section; a version, as old kprobes needed it. */
#include "common.h"

SEC("xdp")
int pass(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("xdp")
int drop(struct xdp_md *context)
{
	return XDP_DROP;
}

SEC("tcx/ingress")
int admit(void *context)
{
	return 0;
}

SEC("cgroup_skb/egress")
int let_out(void *context)
{
	return 1;
}

SEC("my_own_name")
int free_named(void *context)
{
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
__u32 _version SEC("version") = 0x050f00;
