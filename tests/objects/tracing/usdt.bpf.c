// Arguments of a probe in a user's program.
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/usdt.bpf.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 12);
} events SEC(".maps");

SEC("usdt/./program:provider:probe")
int BPF_USDT(probe, int number, void *pointer, long wide)
{
	long values[6] = { number, (long)pointer, wide, bpf_usdt_cookie(ctx) };

	bpf_usdt_arg(ctx, 3, &values[4]);
	values[5] = bpf_usdt_arg_cnt(ctx);
	bpf_ringbuf_output(&events, values, sizeof(values), 0);
	return 0;
}

SEC("usdt/./program:provider:empty")
int BPF_USDT(empty)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
