/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counts how long a function of a user program takes: bucket N has 2^N to 2^(N+1)-1 nanoseconds. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define BUCKETS 64

/* A call under way. A function that calls itself has several in one thread, each with its stack. */
struct call {
	__u64 thread;
	__u64 stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 10240);
	__type(key, struct call);
	__type(value, __u64);
} began SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} histogram SEC(".maps");

/* The time of all calls together. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} total_ns SEC(".maps");

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

/* Which function it is, the caller of attach() says. */
SEC("uprobe")
int enter(void *registers)
{
	struct call call = { bpf_get_current_pid_tgid(), PT_REGS_SP(registers) };
	__u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&began, &call, &now, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int leave(void *registers)
{
	struct call call = { bpf_get_current_pid_tgid(), PT_REGS_SP(registers) };
	__u64 now = bpf_ktime_get_ns(), *start, *count, *total;
	__u32 bucket, first = 0;

#if defined(__TARGET_ARCH_x86)
	call.stack -= 8; /* `ret` took the address to return to */
#endif
	start = bpf_map_lookup_elem(&began, &call);
	if (!start)
		return 0;
	now -= *start;
	bpf_map_delete_elem(&began, &call);
	bucket = log2_of(now);
	count = bpf_map_lookup_elem(&histogram, &bucket);
	if (count)
		++*count;
	total = bpf_map_lookup_elem(&total_ns, &first);
	if (total)
		*total += now;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
