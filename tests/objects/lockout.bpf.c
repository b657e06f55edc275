/* Programs for the lock-out check: each passes all packets but those of one kind, or none of them.
 * `drop` chooses the kind. `blocked` and `nets` are lists of IPv4 addresses. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*now)(void) = (void *)5;

struct context { u32 data, data_end, meta, ifindex, queue; };
struct skb { u32 before[19], data, data_end; };

enum kind { NOTHING, IPV6, ARP, NO_SYN, LARGE, FAR, OTHER_NET, BLOCKED, NEIGHBOURS, ALL, SMALL, LIMIT, STATE, LPM, INNER, OPTIONS };
const volatile u32 drop = NOTHING;
const volatile u32 net = 0;

struct { __uint(type, 2); __type(key, u32); __type(value, u64); __uint(max_entries, 1); } seen SEC(".maps");
struct { __uint(type, 1); __type(key, u32); __type(value, u32); __uint(max_entries, 300000); } blocked SEC(".maps");
struct { __uint(type, 1); __type(key, u32); __type(value, u64); __uint(max_entries, 64); } states SEC(".maps");
struct prefix { u32 length; u8 address[4]; };
struct { __uint(type, 11); __type(key, struct prefix); __type(value, u32); __uint(max_entries, 1024); __uint(map_flags, 1); } nets SEC(".maps");
struct inner { __uint(type, 1); __type(key, u32); __type(value, u32); __uint(max_entries, 16); } one SEC(".maps");
struct { __uint(type, 12); __type(key, u32); __uint(max_entries, 1); __type(value, u32);
         struct inner *values[]; } outer SEC(".maps") = { .values = { &one } };

static __attribute__((always_inline)) int stops(u8 *data, u8 *end)
{
	u32 zero = 0;
	u64 *count = lookup(&seen, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	if (drop == ALL)
		return 1;
	if (drop == LARGE)
		return end - data > 1000;
	if (drop == SMALL)
		return end - data < 61;
	if (data + 34 > end)
		return 0;
	u16 kind = data[12] << 8 | data[13];
	if (drop == IPV6)
		return kind == 0x86dd;
	if (drop == ARP)
		return kind == 0x0806;
	if (drop == NEIGHBOURS)
		return kind == 0x86dd && data[20] == 58;
	if (kind != 0x0800)
		return 0;
	u32 source = *(u32 *)(data + 26);
	if (drop == FAR)
		return source != 0x0100007f;
	if (drop == OTHER_NET)
		return (source & 0xffffff) != net;
	if (drop == BLOCKED)
		return lookup(&blocked, &source) != 0;
	if (drop == LPM) {
		struct prefix key = { 32, { data[26], data[27], data[28], data[29] } };
		return lookup(&nets, &key) != 0;
	}
	if (drop == INNER) {
		void *in = lookup(&outer, &zero);
		return in && lookup(in, &source) != 0;
	}
	if (drop == LIMIT) {  /* one packet a millisecond from each address */
		u64 *before = lookup(&states, &source), at = now();
		if (before && at - *before < 1000000)
			return 1;
		update(&states, &source, &at, 0);
		return 0;
	}
	if (data + 54 > end)
		return 0;
	if (drop == NO_SYN)
		return data[23] == 6 && !(data[47] & 2);
	if (drop == OPTIONS)  /* what has TCP options, after the opening */
		return data[23] == 6 && !(data[47] & 2) && data[46] > 0x50;
	if (drop == STATE) {  /* what was opened by a SYN may go on */
		u64 at = 1;
		if (data[23] == 6 && data[47] & 2)
			update(&states, &source, &at, 0);
		return data[23] == 6 && !lookup(&states, &source);
	}
	return 0;
}

SEC("xdp") int in_xdp(struct context *context)
{
	return stops((u8 *)(u64)context->data, (u8 *)(u64)context->data_end) ? 1 : 2;
}
SEC("tcx/ingress") int in_tc(struct skb *skb)
{
	return stops((u8 *)(u64)skb->data, (u8 *)(u64)skb->data_end) ? 2 : -1;
}
/* What tail calls reach, and a verdict whose 0 means XDP_PASS. */
struct { __uint(type, 3); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 2); } jumps SEC(".maps");
struct { __uint(type, 2); __type(key, u32); __type(value, u32); __uint(max_entries, 1); } action SEC(".maps");
static long (*tail_call)(void *context, void *programs, u32 index) = (void *)12;

SEC("cgroup_skb/egress") int in_cgroup(struct skb *skb)
{
	return !(drop == ALL);
}
SEC("cgroup/connect4") int on_connect(void *context)
{
	return 1;
}
SEC("xdp") int front(struct context *context)
{
	tail_call(context, &jumps, 0);
	return 2;
}
SEC("?xdp") int back(struct context *context)
{
	return 1;
}
SEC("xdp") int by_action(struct context *context)
{
	u32 zero = 0, *wanted = lookup(&action, &zero);
	return wanted && *wanted ? *wanted : 2;
}
char _license[] SEC("license") = "GPL";
