/* Arguments of probes in a user's program, as bpf_usdt_arg() reads them. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/usdt.bpf.h>

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

struct values {
	long long count;
	long long number; /* of arguments */
	long long arguments[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct values);
} seen SEC(".maps");

SEC("?usdt") int on_probe(struct pt_regs *ctx)
{
	__u32 first = 0;
	struct values *values = bpf_map_lookup_elem(&seen, &first);
	long argument;

	if (!values)
		return 0;
	values->number = bpf_usdt_arg_cnt(ctx);
#pragma clang loop unroll(full)
	for (int index = 0; index < 8; index++) {
		argument = 0;
		bpf_usdt_arg(ctx, index, &argument);
		values->arguments[index] = argument;
	}
	__sync_fetch_and_add(&values->count, STEP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
