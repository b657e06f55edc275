/* Global data of every kind: named, static, read-only, strings, a section of its own. */
#include "common.h"

__u64 packets;
__u32 verdict = XDP_PASS;
const volatile __u32 limit = 100;
static volatile __u64 dropped;
static volatile __u32 weights[4] = { 1, 2, 3, 4 };
__u32 own SEC(".data.own") = 7;

static const char greeting[] = "packet %d";

SEC("xdp")
int count(struct xdp_md *context)
{
	packets += 1;
	own += weights[3];
	bpf_trace_printk(greeting, sizeof(greeting), 1);
	if (packets <= limit)
		return verdict;
	dropped += 1;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
