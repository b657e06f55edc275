/* Programs that the verifier refuses, one for each cause; the comment at the end of a line of C says
 * that it is refused there, and for what. A test reads these comments.
 */
#include "common.h"

struct bpf_spin_lock {
	__u32 value;
};

struct locked {
	struct bpf_spin_lock lock;
	__u32 count;
};

struct counters {
	__u64 count[4];
};

struct {
	__uint(type, HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct counters);
} flows SEC(".maps");

struct {
	__uint(type, HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct locked);
} locks SEC(".maps");

struct {
	__uint(type, 27); /* BPF_MAP_TYPE_RINGBUF */
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, 128); /* BPF_F_RDONLY_PROG */
	__type(key, __u32);
	__type(value, __u64);
} settings SEC(".maps");

static long (*get_stackid)(void *context, void *map, __u64 flags) = (void *)27;
static long (*probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static void *(*ringbuf_reserve)(void *map, __u64 size, __u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static __u64 (*ktime_get_ns)(void) = (void *)5;
static void (*spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static void (*spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static __u32 (*get_prandom_u32)(void) = (void *)7;
static long (*redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static void (*never_there)(void) = (void *)5000;

#define HIDDEN(variable) asm volatile("" : "+r"(variable))

SEC("xdp")
int null_check(struct xdp_md *context)
{
	__u32 key = 1;
	__u64 *counter = bpf_map_lookup_elem(&flows, &key);

	*counter += 1; /* null-check */
	return XDP_PASS;
}

SEC("xdp")
int null_argument(struct xdp_md *context)
{
	__u32 key = 1;
	__u64 *counter = bpf_map_lookup_elem(&flows, &key);

	bpf_map_update_elem(&flows, &key, counter, 0); /* null-check */
	return XDP_PASS;
}

SEC("xdp")
int packet_bounds(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data;

	return data[20]; /* packet-bounds */
}

SEC("xdp")
int value_bounds(struct xdp_md *context)
{
	__u32 key = 1;
	__u64 *counter = bpf_map_lookup_elem(&flows, &key);

	if (!counter)
		return XDP_DROP;
	return counter[7]; /* value-bounds */
}

SEC("xdp")
int unbounded_offset(struct xdp_md *context)
{
	__u32 key = 1;
	char *counter = bpf_map_lookup_elem(&flows, &key);
	__u64 index = ktime_get_ns();

	if (!counter)
		return XDP_DROP;
	return counter[index]; /* unbounded-offset */
}

SEC("xdp")
int unbounded_size(struct xdp_md *context)
{
	char buffer[16] = {};
	int size = get_prandom_u32();

	probe_read_kernel(buffer, size, (void *)0); /* unbounded-offset */
	return buffer[0];
}

SEC("xdp")
int stack_bounds(struct xdp_md *context)
{
	__u32 key[2] = {1, 2};
	char *end = (char *)key;

	HIDDEN(end);
	end[8] = 1; /* stack-bounds */
	return key[0];
}

SEC("xdp")
int stack_size(struct xdp_md *context)
{
	char small[8];
	char *below = small;

	HIDDEN(below);
	below[-600] = 1; /* stack-size */
	return XDP_PASS;
}

static __noinline int deep(__u64 seed)
{
	volatile char large[400];

	large[seed & 255] = seed;
	return large[seed & 127];
}

SEC("xdp")
int combined_stack(struct xdp_md *context) /* no-line: stack-size */
{
	volatile char large[400];
	__u32 seed = get_prandom_u32();

	large[seed & 255] = seed;
	return deep(seed) + large[seed & 127];
}

SEC("xdp")
int endless(struct xdp_md *context)
{
	__u32 round = 0;

	while (1) {
		HIDDEN(round);
		if (get_prandom_u32() == 7) /* loop */
			break;
	}
	return round;
}

SEC("xdp")
int misaligned(struct xdp_md *context)
{
	__u64 numbers[2] = {1, 2};
	char *at = (char *)numbers;

	HIDDEN(at);
	return *(__u32 *)(at + 3); /* alignment */
}

SEC("xdp")
int helper_not_allowed(struct xdp_md *context)
{
	return get_stackid(context, &flows, 0); /* helper-not-allowed */
}

SEC("xdp")
int helper_missing(struct xdp_md *context)
{
	never_there(); /* helper-missing */
	return XDP_PASS;
}

SEC("xdp")
int leaked(struct xdp_md *context)
{
	__u64 *record = ringbuf_reserve(&events, 8, 0);

	if (!record)
		return XDP_DROP;
	*record = 1;
	return XDP_PASS; /* leaked-reference */
} /* leaked-reference */

SEC("xdp")
int reserve_of_any_size(struct xdp_md *context)
{
	__u64 *record = ringbuf_reserve(&events, get_prandom_u32(), 0); /* not-constant */

	if (record)
		ringbuf_submit(record, 0);
	return XDP_PASS;
}

SEC("xdp")
int number_as_pointer(struct xdp_md *context)
{
	__u64 *at = (void *)ktime_get_ns();

	return *at; /* scalar-pointer */
}

SEC("xdp")
int pointer_multiplied(struct xdp_md *context)
{
	__u64 at = (__u64)context;

	at *= 8; /* pointer-arithmetic */
	return *(__u32 *)at;
}

SEC("xdp")
int modified_context(struct xdp_md *context)
{
	__u64 index = get_prandom_u32() & 4;
	char *moved = (char *)context;

	HIDDEN(moved);
	return *(__u32 *)(moved + index); /* modified-pointer */
}

SEC("xdp")
int context_field(struct xdp_md *context)
{
	return ((__u32 *)context)[40]; /* context-field */
}

SEC("xdp")
int read_only_map(struct xdp_md *context)
{
	__u32 key = 0;
	__u64 *setting = bpf_map_lookup_elem(&settings, &key);

	if (!setting)
		return XDP_DROP;
	*setting = 1; /* read-only */
	return XDP_PASS;
}

SEC("xdp")
int call_while_locked(struct xdp_md *context)
{
	__u32 key = 1;
	struct locked *held = bpf_map_lookup_elem(&locks, &key);

	if (!held)
		return XDP_DROP;
	spin_lock(&held->lock);
	held->count = get_prandom_u32(); /* spin-lock */
	spin_unlock(&held->lock);
	return XDP_PASS;
}

SEC("xdp")
int wrong_argument(struct xdp_md *context)
{
	void *number = (void *)7;

	HIDDEN(number);
	return (long)bpf_map_lookup_elem(&flows, number); /* argument-type */
}

SEC("xdp")
int wrong_kind_of_map(struct xdp_md *context)
{
	return redirect_map(&flows, 0, 0); /* map-kind */
}

SEC("cgroup_skb/egress")
int return_value(void *context)
{
	return 100; /* return-value */
}

/* Deeper than any kernel allows: the last call that one follows is refused. */
static __noinline int depth_20(__u64 seed) { HIDDEN(seed); return seed; }
static __noinline int depth_19(__u64 seed) { HIDDEN(seed); return depth_20(seed) + 1; } /* call-depth */
static __noinline int depth_18(__u64 seed) { HIDDEN(seed); return depth_19(seed) + 1; } /* call-depth */
static __noinline int depth_17(__u64 seed) { HIDDEN(seed); return depth_18(seed) + 1; } /* call-depth */
static __noinline int depth_16(__u64 seed) { HIDDEN(seed); return depth_17(seed) + 1; } /* call-depth */
static __noinline int depth_15(__u64 seed) { HIDDEN(seed); return depth_16(seed) + 1; } /* call-depth */
static __noinline int depth_14(__u64 seed) { HIDDEN(seed); return depth_15(seed) + 1; } /* call-depth */
static __noinline int depth_13(__u64 seed) { HIDDEN(seed); return depth_14(seed) + 1; } /* call-depth */
static __noinline int depth_12(__u64 seed) { HIDDEN(seed); return depth_13(seed) + 1; } /* call-depth */
static __noinline int depth_11(__u64 seed) { HIDDEN(seed); return depth_12(seed) + 1; } /* call-depth */
static __noinline int depth_10(__u64 seed) { HIDDEN(seed); return depth_11(seed) + 1; } /* call-depth */
static __noinline int depth_9(__u64 seed) { HIDDEN(seed); return depth_10(seed) + 1; } /* call-depth */
static __noinline int depth_8(__u64 seed) { HIDDEN(seed); return depth_9(seed) + 1; } /* call-depth */
static __noinline int depth_7(__u64 seed) { HIDDEN(seed); return depth_8(seed) + 1; } /* call-depth */
static __noinline int depth_6(__u64 seed) { HIDDEN(seed); return depth_7(seed) + 1; } /* call-depth */
static __noinline int depth_5(__u64 seed) { HIDDEN(seed); return depth_6(seed) + 1; } /* call-depth */
static __noinline int depth_4(__u64 seed) { HIDDEN(seed); return depth_5(seed) + 1; } /* call-depth */
static __noinline int depth_3(__u64 seed) { HIDDEN(seed); return depth_4(seed) + 1; } /* call-depth */
static __noinline int depth_2(__u64 seed) { HIDDEN(seed); return depth_3(seed) + 1; } /* call-depth */
static __noinline int depth_1(__u64 seed) { HIDDEN(seed); return depth_2(seed) + 1; } /* call-depth */

SEC("xdp")
int too_deep(struct xdp_md *context)
{
	return depth_1(context->data_end - context->data); /* call-depth */
}

/* Newer kernels write a report for each of the two. */
SEC("xdp")
int leaked_twice(struct xdp_md *context)
{
	__u64 *first = ringbuf_reserve(&events, 8, 0);
	__u64 *second;

	if (!first)
		return XDP_DROP;
	second = ringbuf_reserve(&events, 8, 0);
	if (!second) {
		ringbuf_submit(first, 0);
		return XDP_DROP;
	}
	*first = *second = 1;
	return XDP_PASS; /* leaked-reference */
} /* leaked-reference */

char _license[] SEC("license") = "GPL";
