/* Programs for both ends of a netkit pair: each counts UDP packets to one port over IPv4, by STEP. */
#include "common.h"

#ifndef STEP
#define STEP 1
#endif

#define PORT 9999
#define ETHERNET 14

enum { AT_PRIMARY, AT_PEER, ENDS };
enum { NETKIT_NEXT = -1 };

static long (*bpf_skb_load_bytes)(void *skb, __u32 offset, void *to, __u32 length) = (void *)26;

/* Indexed by the end; kept by every reload. */
struct {
	__uint(type, ARRAY);
	__uint(max_entries, ENDS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline int count(void *skb, __u32 end)
{
	unsigned char header[24];
	__u64 *counter;

	if (bpf_skb_load_bytes(skb, ETHERNET, header, sizeof(header)))
		return NETKIT_NEXT;
	if (header[0] != 0x45 || header[9] != 17 || header[22] != PORT >> 8 ||
	    header[23] != (PORT & 0xff))
		return NETKIT_NEXT;
	counter = bpf_map_lookup_elem(&counts, &end);
	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return NETKIT_NEXT;
}

SEC("netkit/primary")
int primary_out(void *skb)
{
	return count(skb, AT_PRIMARY);
}

SEC("netkit/peer")
int peer_out(void *skb)
{
	return count(skb, AT_PEER);
}

char _license[] SEC("license") = "GPL";
