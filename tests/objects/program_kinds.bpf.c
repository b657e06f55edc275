/* A program in sections of every kind; none does anything, so that any kernel with the type loads it. */
#include "common.h"

#define KIND(section, name)  \
	SEC(section)         \
	int name(void *context) \
	{                    \
		return 0;    \
	}

KIND("socket", filter)
KIND("sk_reuseport", choose_socket)
KIND("sk_reuseport/migrate", move_socket)
KIND("sk_lookup", look_up)
KIND("sk_msg", message)
KIND("sk_skb/stream_parser", parse)
KIND("sk_skb/stream_verdict", judge_stream)
KIND("sk_skb/verdict", judge)
KIND("flow_dissector", dissect)
KIND("netfilter", hook)
KIND("lirc_mode2", infrared)
KIND("lwt_in", tunnel_in)
KIND("lwt_out", tunnel_out)
KIND("lwt_xmit", tunnel_xmit)
KIND("lwt_seg6local", segment)
KIND("tc", classify)
KIND("action", act)
KIND("tcx/ingress", admit)
KIND("netkit/peer", peer)
KIND("xdp.frags", fragments)
KIND("xdp/devmap", leaving)
KIND("xdp.frags/cpumap", moving)
KIND("?xdp", only_when_named)
KIND("sockops", socket_operation)
KIND("cgroup_skb/ingress", group_in)
KIND("cgroup/dev", device)
KIND("cgroup/sock_create", socket_made)
KIND("cgroup/post_bind4", bound)
KIND("cgroup/connect4", connecting)
KIND("cgroup/sysctl", setting)
KIND("cgroup/getsockopt", option)
KIND("kprobe/do_nanosleep", probe)
KIND("kretprobe/do_nanosleep", probe_return)
KIND("kprobe.multi/do_nano*", probe_many)
KIND("kprobe.session/do_nano*", probe_both)
KIND("ksyscall/nanosleep", system_call)
KIND("uprobe//bin/sh:main", user_probe)
KIND("uprobe.s//bin/sh:main", user_probe_sleeping)
KIND("uprobe.multi.s//bin/sh:m*", user_probe_many)
KIND("usdt//bin/sh:libc:setjmp", user_static)
KIND("tracepoint/sched/sched_switch", trace)
KIND("tp/sched/sched_switch", trace_short)
KIND("raw_tp/sched_switch", raw_trace)
KIND("raw_tracepoint.w/sched_switch", raw_trace_writable)
KIND("perf_event", sample)
KIND("syscall", call)
KIND("tp_btf/sched_switch", typed_trace)
KIND("fentry/do_nanosleep", entry)
KIND("fentry.s/do_nanosleep", entry_sleeping)
KIND("fexit/do_nanosleep", leave)
KIND("fmod_ret/security_file_open", change)
KIND("lsm/file_open", guard)
KIND("lsm.s/file_open", guard_sleeping)
KIND("lsm_cgroup/socket_bind", guard_group)
KIND("iter/task", walk)
KIND("iter.s/task", walk_sleeping)
KIND("fentry", entry_without_place)
KIND("fentry/no_such_function_anywhere", entry_nowhere)

/* With the type of its context: Linux 6.1 lets nothing replace a function of other arguments. */
SEC("xdp")
int packet(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("freplace/packet")
int replacement(struct xdp_md *context)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
