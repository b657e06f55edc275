/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* One map, counted from three places of the network stack: netfilter, a route, a map of sockets. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum { ON_INPUT, ON_ROUTE, ON_MESSAGE, PLACES };
enum { NF_DROP, NF_ACCEPT };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

static int count(__u32 place, int answer)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &place);

	if (counter)
		__sync_fetch_and_add(counter, 1);
	return answer;
}

SEC("netfilter")
int on_input(void *context)
{
	return count(ON_INPUT, NF_ACCEPT);
}

SEC("lwt_xmit")
int on_route(struct __sk_buff *packet)
{
	return count(ON_ROUTE, BPF_OK);
}

SEC("sk_msg")
int on_message(struct sk_msg_md *message)
{
	return count(ON_MESSAGE, SK_PASS);
}

char LICENSE[] SEC("license") = "GPL";
