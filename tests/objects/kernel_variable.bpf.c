/* A variable of the kernel that each CPU has one of, with its type. */
#include "common.h"

struct rq {
	int cpu;
} __attribute__((preserve_access_index));

extern const struct rq runqueues __attribute__((section(".ksyms")));

static void *(*bpf_per_cpu_ptr)(const void *pointer, __u32 cpu) = (void *)153;

SEC("xdp")
int first_cpu(struct xdp_md *context)
{
	const struct rq *queue = bpf_per_cpu_ptr(&runqueues, 0);

	return queue && queue->cpu == 0 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
