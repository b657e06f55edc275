/* Programs that only count: one for each hook that other objects do not have.
 *
 * AT_… are the indexes of their counters, which whoever compiles this gives.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

#define ALLOW 1 /* of cgroups; NF_ACCEPT, SK_PASS */
#define CONTINUE 129 /* BPF_FLOW_DISSECTOR_CONTINUE: as without a program (Linux 6.3) */
#define NEXT -1 /* TC_ACT_UNSPEC */
#define PACKET 77 /* bytes of data, in a datagram over IPv4 or IPv6 */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 128);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

static __always_inline int count(__u32 hook, int answer)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &hook);

	if (counter)
		__sync_fetch_and_add(counter, 1);
	return answer;
}

static __always_inline int count_datagram(struct __sk_buff *packet, __u32 hook)
{
	if (packet->len == 20 + 8 + PACKET || packet->len == 40 + 8 + PACKET)
		count(hook, ALLOW);
	return ALLOW;
}

/* Frames with a header of Ethernet. */
#define COUNTING_FRAMES(section, name, hook)                                      \
	SEC("?" section) int name(struct __sk_buff *packet)                       \
	{                                                                         \
		return packet->len == 14 + 20 + 8 + PACKET ? count(hook, NEXT) : NEXT; \
	}

#define COUNTING(section, name, hook, answer)             \
	SEC("?" section) int name(void *context)          \
	{                                                 \
		return count(hook, answer);               \
	}

SEC("?cgroup_skb/ingress") int cgroup_inet_ingress(struct __sk_buff *packet)
{
	return count_datagram(packet, AT_CGROUP_INET_INGRESS);
}

SEC("?cgroup_skb/egress") int cgroup_inet_egress(struct __sk_buff *packet)
{
	return count_datagram(packet, AT_CGROUP_INET_EGRESS);
}

/* Of what happens to a connection only that it is asked for. */
SEC("?sockops") int cgroup_sock_ops(struct bpf_sock_ops *socket)
{
	if (socket->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		count(AT_CGROUP_SOCK_OPS, ALLOW);
	return ALLOW;
}

COUNTING("cgroup/sock_create", cgroup_inet_sock_create, AT_CGROUP_INET_SOCK_CREATE, ALLOW)
COUNTING("cgroup/sock_release", cgroup_inet_sock_release, AT_CGROUP_INET_SOCK_RELEASE, ALLOW)
COUNTING("cgroup/dev", cgroup_device, AT_CGROUP_DEVICE, ALLOW)
COUNTING("cgroup/bind4", cgroup_inet4_bind, AT_CGROUP_INET4_BIND, ALLOW)
COUNTING("cgroup/bind6", cgroup_inet6_bind, AT_CGROUP_INET6_BIND, ALLOW)
COUNTING("cgroup/post_bind4", cgroup_inet4_post_bind, AT_CGROUP_INET4_POST_BIND, ALLOW)
COUNTING("cgroup/post_bind6", cgroup_inet6_post_bind, AT_CGROUP_INET6_POST_BIND, ALLOW)
COUNTING("cgroup/connect4", cgroup_inet4_connect, AT_CGROUP_INET4_CONNECT, ALLOW)
COUNTING("cgroup/connect6", cgroup_inet6_connect, AT_CGROUP_INET6_CONNECT, ALLOW)
COUNTING("cgroup/connect_unix", cgroup_unix_connect, AT_CGROUP_UNIX_CONNECT, ALLOW)
COUNTING("cgroup/sendmsg4", cgroup_udp4_sendmsg, AT_CGROUP_UDP4_SENDMSG, ALLOW)
COUNTING("cgroup/sendmsg6", cgroup_udp6_sendmsg, AT_CGROUP_UDP6_SENDMSG, ALLOW)
COUNTING("cgroup/sendmsg_unix", cgroup_unix_sendmsg, AT_CGROUP_UNIX_SENDMSG, ALLOW)
COUNTING("cgroup/recvmsg4", cgroup_udp4_recvmsg, AT_CGROUP_UDP4_RECVMSG, ALLOW)
COUNTING("cgroup/recvmsg6", cgroup_udp6_recvmsg, AT_CGROUP_UDP6_RECVMSG, ALLOW)
COUNTING("cgroup/recvmsg_unix", cgroup_unix_recvmsg, AT_CGROUP_UNIX_RECVMSG, ALLOW)
COUNTING("cgroup/getpeername4", cgroup_inet4_getpeername, AT_CGROUP_INET4_GETPEERNAME, ALLOW)
COUNTING("cgroup/getpeername6", cgroup_inet6_getpeername, AT_CGROUP_INET6_GETPEERNAME, ALLOW)
COUNTING("cgroup/getpeername_unix", cgroup_unix_getpeername, AT_CGROUP_UNIX_GETPEERNAME, ALLOW)
COUNTING("cgroup/getsockname4", cgroup_inet4_getsockname, AT_CGROUP_INET4_GETSOCKNAME, ALLOW)
COUNTING("cgroup/getsockname6", cgroup_inet6_getsockname, AT_CGROUP_INET6_GETSOCKNAME, ALLOW)
COUNTING("cgroup/getsockname_unix", cgroup_unix_getsockname, AT_CGROUP_UNIX_GETSOCKNAME, ALLOW)
COUNTING("cgroup/sysctl", cgroup_sysctl, AT_CGROUP_SYSCTL, ALLOW)
COUNTING("cgroup/getsockopt", cgroup_getsockopt, AT_CGROUP_GETSOCKOPT, ALLOW)
COUNTING("cgroup/setsockopt", cgroup_setsockopt, AT_CGROUP_SETSOCKOPT, ALLOW)

COUNTING("sk_lookup", sk_lookup, AT_SK_LOOKUP, ALLOW)
COUNTING("flow_dissector", flow_dissector, AT_FLOW_DISSECTOR, CONTINUE)
COUNTING("netfilter", netfilter, AT_NETFILTER, ALLOW)
COUNTING("lwt_in", lwt_in, AT_LWT_IN, 0)
COUNTING("lwt_out", lwt_out, AT_LWT_OUT, 0)
COUNTING("lwt_xmit", lwt_xmit, AT_LWT_XMIT, 0)
COUNTING_FRAMES("tcx/egress", tcx_egress, AT_TCX_EGRESS)
COUNTING_FRAMES("tc", tc_egress, AT_TC_EGRESS)
COUNTING_FRAMES("netkit/primary", netkit_primary, AT_NETKIT_PRIMARY)
COUNTING_FRAMES("netkit/peer", netkit_peer, AT_NETKIT_PEER)

COUNTING("sk_skb/stream_verdict", sk_skb_stream_verdict, AT_SK_SKB_STREAM_VERDICT, ALLOW)
COUNTING("sk_msg", sk_msg_verdict, AT_SK_MSG_VERDICT, ALLOW)

/* The end of a connection has no data. */
SEC("?sk_skb/verdict") int sk_skb_verdict(struct __sk_buff *data)
{
	return data->len ? count(AT_SK_SKB_VERDICT, ALLOW) : ALLOW;
}

SEC("?sk_skb/stream_parser") int sk_skb_stream_parser(struct __sk_buff *data)
{
	return count(AT_SK_SKB_STREAM_PARSER, data->len);
}

struct task_struct;

struct bpf_iter__task {
	void *meta;
	struct task_struct *task;
};

/* At the end of a reading there is no task. */
SEC("?iter/task") int iter(struct bpf_iter__task *context)
{
	if (!context->task)
		count(AT_ITER, 0);
	return 0;
}

char _license[] SEC("license") = "GPL";
