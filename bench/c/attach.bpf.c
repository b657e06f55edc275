/* A program for each kind of hook, that does nothing; with the macro TABLE, its value is the section
 * of a table of functions instead.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifdef TABLE

struct sock;

struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	__u32 flags;
	char name[16];
	void *owner;
};

SEC("struct_ops/on_threshold") __u32 on_threshold(__u64 *context) { return 2; }
SEC("struct_ops/on_window") void on_window(__u64 *context) { }
SEC("struct_ops/on_undo") __u32 on_undo(__u64 *context) { return 10; }

SEC(TABLE)
struct tcp_congestion_ops table = {
	.ssthresh = (void *)on_threshold,
	.cong_avoid = (void *)on_window,
	.undo_cwnd = (void *)on_undo,
	.name = "bpfpin_bench",
};

#else

#include <linux/ptrace.h>
#include <bpf/usdt.bpf.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("xdp") int on_xdp(void *context) { return XDP_PASS; }
SEC("tc") int on_tcx(void *context) { return -1; }
SEC("cgroup_skb/ingress") int on_cgroup(void *context) { return 1; }
SEC("tracepoint") int on_tracepoint(void *context) { return 0; }
SEC("raw_tp") int on_raw_tracepoint(void *context) { return 0; }
SEC("uprobe") int on_uprobe(void *context) { return 0; }
SEC("uprobe.multi") int on_uprobe_multi(void *context) { return 0; }
SEC("usdt") int on_usdt(struct pt_regs *context)
{
	long value = 0;

	bpf_usdt_arg(context, 0, &value);
	return 0;
}
SEC("perf_event") int on_perf_event(void *context) { return 0; }
SEC("sk_lookup") int on_sk_lookup(void *context) { return SK_PASS; }
SEC("netfilter") int on_netfilter(void *context) { return 1; }
SEC("sk_msg") int on_sockmap(void *context) { return SK_PASS; }
SEC("iter/bpf_map") int on_iter(void *context) { return 0; }

#endif

char LICENSE[] SEC("license") = "GPL";
