/* A congestion control of TCP that keeps its window, and counts how often it is asked. */
#include "common.h"

#ifndef STEP /* what one call counts: versions differ in it */
#define STEP 1
#endif

#ifndef NAME
#define NAME "bpfpin_kept"
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

enum { AVOIDED, STARTED, CALLS };

struct {
	__uint(type, ARRAY);
	__uint(max_entries, CALLS);
	__type(key, __u32);
	__type(value, __u64);
} asked SEC(".maps");

struct sock {
	int unused;
} __attribute__((preserve_access_index));

struct tcp_congestion_ops {
	void (*init)(struct sock *sk);
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	char name[16];
};

SEC("struct_ops/ssthresh") __u32 ssthresh(__u64 *context)
{
	return 16;
}

static __always_inline void count(__u32 call)
{
	__u64 *counter = bpf_map_lookup_elem(&asked, &call);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
}

SEC("struct_ops/cong_avoid") void cong_avoid(__u64 *context)
{
	count(AVOIDED);
}

SEC("struct_ops/undo_cwnd") __u32 undo_cwnd(__u64 *context)
{
	return 16;
}

#ifdef VERSION /* counts the connections that take it */
SEC("struct_ops/init") void init(__u64 *context)
{
	count(STARTED);
}
#endif

SEC(".struct_ops.link") struct tcp_congestion_ops kept = {
	.ssthresh = (void *)ssthresh,
	.cong_avoid = (void *)cong_avoid,
	.undo_cwnd = (void *)undo_cwnd,
#ifdef VERSION
	.init = (void *)init,
#endif
	.name = NAME,
};

char _license[] SEC("license") = "GPL";
