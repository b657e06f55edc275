/* What the objects of the migration tests share; each defines struct count and struct flow. */
#pragma once
#include "common.h"

#define PORT 9999
#define ANY 0
#define NOEXIST 1
enum { LRU_HASH = 9 };

#ifndef RECENT /* so many entries it has; the default has room for all ports */
#define RECENT 60000
#endif

static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;

struct total {
	__u64 packets;
	__u64 bytes;
};

/* What really came, by source port; the same in every version. */
struct {
	__uint(type, HASH);
	__uint(max_entries, 20000);
	__type(key, __u32);
	__type(value, struct total);
} truth SEC(".maps");

struct {
	__uint(type, PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

#ifdef IPROUTE2 /* in the globals of iproute2 */
#include "elf_map.h"
struct bpf_elf_map SEC("maps") flows = {HASH, sizeof(__u32), sizeof(struct flow), 20000, .pinning = 2};
#else
struct {
	__uint(type, HASH);
	__uint(max_entries, 20000);
	__type(key, __u32);
	__type(value, struct flow);
#ifdef BY_NAME
	__uint(pinning, 1);
#endif
} flows SEC(".maps");
#endif

struct {
	__uint(type, LRU_HASH);
	__uint(max_entries, RECENT);
	__type(key, __u32);
	__type(value, struct count);
} recent SEC(".maps");

const volatile __u32 slow_lookup; /* clock readings between finding a counter and adding to it */
const volatile __u32 slow_add;    /* the same between reading and writing one */
const volatile __u32 slow_insert; /* the same between missing a key and inserting it */
const volatile __u32 inserts_any; /* insert the first value itself, instead of zeros */

static __always_inline void wait(__u32 readings)
{
	for (__u32 i = 0; i < readings; i++)
		bpf_ktime_get_ns();
}

#define ADD(member, number) __sync_fetch_and_add(&(member), number)

/* Return the value at key, which is inserted if it is not there; 0 if there is no room. */
#define FOUND(map, key, zeros)                                         \
	({                                                             \
		void *found = bpf_map_lookup_elem(&map, key);          \
		if (!found) {                                          \
			bpf_map_update_elem(&map, key, zeros, NOEXIST); \
			found = bpf_map_lookup_elem(&map, key);        \
		}                                                      \
		found;                                                 \
	})

static __always_inline void count_truth(__u32 port, __u64 bytes)
{
	struct total zeros = {};
	struct total *total = FOUND(truth, &port, &zeros);

	if (total) {
		ADD(total->packets, 1);
		ADD(total->bytes, bytes);
	}
}

static __always_inline void count_all(__u64 bytes)
{
	__u32 zero = 0;
	struct count *count = bpf_map_lookup_elem(&counts, &zero);

	if (!count)
		return;
	if (slow_add) {
		__u64 packets = *(volatile __u64 *)&count->packets;

		wait(slow_add);
		*(volatile __u64 *)&count->packets = packets + 1;
	} else {
		count->packets += 1;
	}
	COUNT_MORE(count, bytes);
}

static __always_inline void count_flow(__u32 port, __u64 bytes)
{
	struct flow first = {};
	struct flow *flow = bpf_map_lookup_elem(&flows, &port);

	if (!flow && inserts_any) {
		first.packets = 1;
		first.bytes = bytes;
		wait(slow_insert);
		bpf_map_update_elem(&flows, &port, &first, ANY);
		return;
	}
	if (!flow)
		flow = FOUND(flows, &port, &first);
	if (!flow)
		return;
	wait(slow_lookup);
	ADD(flow->packets, 1);
	ADD(flow->bytes, bytes);
}

static __always_inline void count_recent(__u32 port)
{
	struct count zeros = {};
	struct count *count = FOUND(recent, &port, &zeros);

	if (count)
		ADD(count->packets, 1);
}

SEC("xdp")
int count_port(struct xdp_md *context)
{
	unsigned char *data = (unsigned char *)(long)context->data;
	unsigned char *end = (unsigned char *)(long)context->data_end;
	__u64 bytes = end - data;
	__u32 port;

	if (data + 14 + 20 + 8 > end)
		return XDP_PASS;
	/* Ethernet type IPv4, a header without options, protocol UDP, the port. */
	if (data[12] != 8 || data[13] != 0 || data[14] != 0x45 || data[23] != 17)
		return XDP_PASS;
	if (data[36] != PORT >> 8 || data[37] != (PORT & 0xff))
		return XDP_PASS;
	port = data[34] << 8 | data[35];
	count_truth(port, bytes);
	count_all(bytes);
	count_flow(port, bytes);
	count_recent(port);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
