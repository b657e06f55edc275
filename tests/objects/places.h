/* Programs for several places in one object: each counts UDP packets to one port over IPv4. */
#pragma once
#include "common.h"

#define PORT 9999
#define ETHERNET 14 /* bytes before the IP header, which a cgroup does not see */

enum { AT_XDP, AT_TCX, AT_TC, AT_INGRESS, AT_EGRESS, PLACES };
enum { TC_NEXT = -1, CGROUP_ALLOW = 1 };

static long (*bpf_skb_load_bytes)(void *skb, __u32 offset, void *to, __u32 length) = (void *)26;

/* Indexed by the place; kept by every reload. */
struct {
	__uint(type, ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

__u64 packets_seen; /* by all of them; in .bss, which a reload keeps too */

#ifdef NEXT_VERSION
/* The same since this version was loaded. */
struct {
	__uint(type, ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, __u64);
} since SEC(".maps");
#endif

static __always_inline void add(void *map, __u32 place)
{
	__u64 *counter = bpf_map_lookup_elem(map, &place);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline void count(__u32 place)
{
	add(&counts, place);
#ifdef NEXT_VERSION
	add(&since, place);
#endif
	__sync_fetch_and_add(&packets_seen, 1);
}

/* Whether it is a UDP packet to PORT; its IPv4 header has no options and begins at *ip*. */
static __always_inline int is_counted(void *skb, __u32 ip)
{
	unsigned char header[24];

	if (bpf_skb_load_bytes(skb, ip, header, sizeof(header)))
		return 0;
	return header[0] == 0x45 && header[9] == 17 && header[22] == PORT >> 8 &&
	       header[23] == (PORT & 0xff);
}

static __always_inline int xdp(struct xdp_md *context)
{
	unsigned char *data = (unsigned char *)(long)context->data;
	unsigned char *end = (unsigned char *)(long)context->data_end;

	if (data + ETHERNET + 24 > end)
		return XDP_PASS;
	if (data[12] == 8 && data[13] == 0 && data[14] == 0x45 && data[23] == 17 &&
	    data[36] == PORT >> 8 && data[37] == (PORT & 0xff))
		count(AT_XDP);
	return XDP_PASS;
}

static __always_inline int tc(void *skb, __u32 place)
{
	if (is_counted(skb, ETHERNET))
		count(place);
	return TC_NEXT;
}

static __always_inline int cgroup(void *skb, __u32 place)
{
	if (is_counted(skb, 0))
		count(place);
	return CGROUP_ALLOW;
}

SEC("xdp")
int xdp_in(struct xdp_md *context)
{
	return xdp(context);
}

SEC("tcx/ingress")
int tcx_in(void *skb)
{
	return tc(skb, AT_TCX);
}

SEC("tc")
int tc_in(void *skb)
{
	return tc(skb, AT_TC);
}

SEC("cgroup_skb/ingress")
int cgroup_in(void *skb)
{
	return cgroup(skb, AT_INGRESS);
}

SEC("cgroup_skb/egress")
int cgroup_out(void *skb)
{
	return cgroup(skb, AT_EGRESS);
}

char _license[] SEC("license") = "GPL";
