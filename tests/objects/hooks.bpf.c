/* One program for each kind of hook; all of them count into one map, each at its own index. */
#include "common.h"

enum { AT_TC, AT_TC_NEW, AT_CGROUP_EGRESS, AT_CGROUP_CONNECT, HOOKS };
enum { TC_ACT_UNSPEC = -1, CGROUP_ALLOW = 1 };

struct {
	__uint(type, ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(__u32 hook)
{
	__u64 *counter = bpf_map_lookup_elem(&counts, &hook);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

SEC("tc")
int count_tc(void *context)
{
	count(AT_TC);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int count_tc_new(void *context)
{
	count(AT_TC_NEW);
	return TC_ACT_UNSPEC;
}

SEC("cgroup_skb/egress")
int count_egress(void *context)
{
	count(AT_CGROUP_EGRESS);
	return CGROUP_ALLOW;
}

SEC("cgroup/connect4")
int count_connect(void *context)
{
	count(AT_CGROUP_CONNECT);
	return CGROUP_ALLOW;
}

char _license[] SEC("license") = "GPL";
