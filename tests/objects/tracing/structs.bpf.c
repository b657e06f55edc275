// Structures as arguments, as fentry passes them.
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct pair {
	long first;
	long second;
};
struct small {
	char letter;
	short number;
};

SEC("fentry/function")
int BPF_PROG2(function, int, before, struct pair, both, struct small, small, long, after)
{
	bpf_printk("%d %ld %ld", before, both.first, both.second);
	bpf_printk("%d %d %ld", small.letter, small.number, after);
	return 0;
}

SEC("fentry/nothing")
int BPF_PROG2(nothing)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
