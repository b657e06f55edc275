/* A program of tc and one of a cgroup that count into one map, shared by its name. */
#include "common.h"

enum { TC_ACT_UNSPEC = -1, CGROUP_ALLOW = 1 };

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, 1);
} packets SEC(".maps");

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

SEC("tc")
int count_in(void *packet)
{
	count();
	return TC_ACT_UNSPEC;
}

SEC("cgroup_skb/egress")
int count_out(void *packet)
{
	count();
	return CGROUP_ALLOW;
}

char _license[] SEC("license") = "GPL";
