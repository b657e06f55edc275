/* A counter whose map, members and hooks are what -D says: versions of one program. */
#include "common.h"

#ifndef MEMBERS
#define MEMBERS __u64 packets; __u64 bytes;
#endif
#ifndef KEY
#define KEY __u32
#endif
#ifndef TYPE
#define TYPE HASH
#endif
#ifndef ENTRIES
#define ENTRIES 16
#endif
#ifndef FLAGS
#define FLAGS 0
#endif
#ifndef COUNT
#define COUNT ADD(counter->packets, 1), ADD(counter->bytes, size)
#endif

enum { PERCPU_HASH = 5, LRU_HASH = 9, LRU_PERCPU_HASH = 10, NO_PREALLOC = 1, NOEXIST = 1 };
enum state { STATES };

#define ADD(member, number) __sync_fetch_and_add(&(member), number)

#ifdef BEFORE
BEFORE
#endif

struct counter {
	MEMBERS
};

#ifdef WITHOUT_BTF
struct bpf_map_def {
	__u32 type, key_size, value_size, max_entries, map_flags;
};
struct bpf_map_def SEC("maps") counters = {TYPE, sizeof(KEY), sizeof(struct counter), ENTRIES, FLAGS};
#else
struct {
	__uint(type, TYPE);
	__uint(max_entries, ENTRIES);
	__uint(map_flags, FLAGS);
	__type(key, KEY);
	__type(value, struct counter);
} counters SEC(".maps");
#endif

#ifdef VARIABLES
VARIABLES
#endif

static __always_inline int count(__u32 size)
{
	KEY key = { 0 };
	struct counter zeros = {};
	struct counter *counter = bpf_map_lookup_elem(&counters, &key);

	if (!counter) {
		bpf_map_update_elem(&counters, &key, &zeros, NOEXIST);
		counter = bpf_map_lookup_elem(&counters, &key);
	}
	if (counter)
		COUNT;
	return 0;
}

#ifdef AT_CGROUP
SEC("cgroup_skb/egress")
int count_cgroup(struct xdp_md *context)
{
	count(1);
	return 1;
}
#else
SEC("xdp")
int count_xdp(struct xdp_md *context)
{
	count(1);
	return XDP_PASS;
}
#endif

#ifdef AT_TC
SEC(AT_TC)
int count_tc(struct xdp_md *context)
{
	count(1);
	return 0;
}
#endif

char _license[] SEC("license") = "GPL";
