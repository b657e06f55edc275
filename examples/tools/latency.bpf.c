/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts how long calls take: bucket N has those of 2^N to 2^(N+1)-1 nanoseconds. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define BUCKETS 64

/* When the calls under way began, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 10240);
	__type(key, __u64);
	__type(value, __u64);
} began SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} histogram SEC(".maps");

static __always_inline __u32 log2_of(__u64 value)
{
	__u32 log = 0;

	for (__u32 bits = 32; bits; bits >>= 1) {
		if (value >> bits) {
			value >>= bits;
			log += bits;
		}
	}
	return log;
}

/* Which system call it is, the caller of attach() says. */
SEC("tracepoint")
int enter(void *record)
{
	__u64 thread = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();

	bpf_map_update_elem(&began, &thread, &now, BPF_ANY);
	return 0;
}

SEC("tracepoint")
int leave(void *record)
{
	__u64 thread = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	__u64 *start = bpf_map_lookup_elem(&began, &thread), *count;
	__u32 bucket;

	if (!start)
		return 0;
	bucket = log2_of(now - *start);
	bpf_map_delete_elem(&began, &thread);
	count = bpf_map_lookup_elem(&histogram, &bucket);
	if (count)
		++*count;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
