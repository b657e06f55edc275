/* Tables of functions that the kernel calls: two of TCP's, one of them optional, one for tests. */
#include "common.h"

struct sock {
	int unused;
} __attribute__((preserve_access_index));

struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	__u32 flags;
	char name[16];
	void *owner;
};

struct tcp_congestion_ops___older {
	__u32 (*ssthresh)(struct sock *sk);
	void (*gone)(struct sock *sk);
};

struct bpf_dummy_ops_state {
	int value;
};

struct bpf_dummy_ops {
	int (*test_1)(struct bpf_dummy_ops_state *state);
};

SEC("struct_ops/keep_threshold")
__u32 keep_threshold(__u64 *context)
{
	return 2;
}

SEC("struct_ops/keep_window")
void keep_window(__u64 *context)
{
}

SEC("struct_ops/undo_nothing")
__u32 undo_nothing(__u64 *context)
{
	return 10;
}

SEC("struct_ops/answer")
int answer(__u64 *context)
{
	return 42;
}

SEC("struct_ops/called_by_none")
__u32 called_by_none(__u64 *context)
{
	return 1;
}

SEC(".struct_ops.link")
struct tcp_congestion_ops still = {
	.ssthresh = (void *)keep_threshold,
	.cong_avoid = (void *)keep_window,
	.undo_cwnd = (void *)undo_nothing,
	.name = "bpfpin_still",
};

SEC("?.struct_ops.link")
struct tcp_congestion_ops___older outdated = {
	.gone = (void *)called_by_none,
};

SEC(".struct_ops")
struct bpf_dummy_ops dummy = {
	.test_1 = (void *)answer,
};

char _license[] SEC("license") = "GPL";
