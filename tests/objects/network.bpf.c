/* Programs of the network stack that name their own targets: what they see is counted by program.
 * They count only packets to or from UDP and TCP ports of the tests. */
#include "common.h"

enum { SOCKMAP = 15 };
enum { ON_INPUT, ON_OUTPUT, ON_PARSE, ON_VERDICT, ON_MESSAGE, ON_ROUTE, ON_SOCKET, ON_LARGE, ON_WHOLE, KINDS };

struct {
	__uint(type, ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

#ifndef ENTRIES /* of the map of sockets */
#define ENTRIES 4
#endif

#ifndef ANSWER
#define ANSWER 1 /* NF_ACCEPT, SK_PASS */
#endif

#ifndef ROUTED
#define ROUTED 0 /* BPF_OK */
#endif

#ifndef KEPT
#define KEPT 65535 /* bytes of a packet; or the index of a socket among those of a port */
#endif

struct __sk_buff {
	__u32 len;
};

static __always_inline int count(__u32 kind, int answer)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &kind);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return answer;
}

SEC("netfilter") int on_input(void *context)
{
	return count(ON_INPUT, ANSWER);
}

SEC("?netfilter") int on_output(void *context)
{
	return count(ON_OUTPUT, ANSWER);
}

struct sk_buff {
	__u32 len;
} __attribute__((preserve_access_index));

struct bpf_nf_ctx {
	void *state;
	struct sk_buff *skb;
} __attribute__((preserve_access_index));

/* Larger packets than those of neighbour discovery. */
SEC("?netfilter") int on_large(struct bpf_nf_ctx *context)
{
	return context->skb->len > 1000 ? count(ON_LARGE, ANSWER) : ANSWER;
}

SEC("?netfilter") int on_whole(struct bpf_nf_ctx *context)
{
	return context->skb->len > 1000 ? count(ON_WHOLE, ANSWER) : ANSWER;
}

struct {
	__uint(type, SOCKMAP);
	__uint(max_entries, ENTRIES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("?sk_skb/stream_parser") int on_parse(struct __sk_buff *data)
{
	return count(ON_PARSE, data->len);
}

SEC("?sk_skb/stream_verdict") int on_stream(void *context)
{
	return count(ON_VERDICT, ANSWER); /* SK_PASS */
}

SEC("?sk_skb/verdict") int on_verdict(void *context)
{
	return count(ON_VERDICT, ANSWER);
}

SEC("?sk_msg") int on_message(void *context)
{
	return count(ON_MESSAGE, ANSWER);
}

SEC("?lwt_in") int on_arrival(void *context)
{
	return count(ON_ROUTE, ROUTED);
}

SEC("?lwt_out") int on_departure(void *context)
{
	return count(ON_SOCKET, ROUTED);
}

SEC("?lwt_xmit") int on_route(void *context)
{
	return count(ON_ROUTE, ROUTED);
}

SEC("?socket") int on_socket(void *context)
{
	return count(ON_SOCKET, KEPT);
}

SEC("?sk_lookup") int on_lookup(void *context)
{
	return count(ON_SOCKET, ANSWER);
}

SEC("?sk_reuseport") int on_choice(void *context)
{
	return count(ON_SOCKET, 1); /* SK_PASS: the kernel chooses */
}

char _license[] SEC("license") = "GPL";
