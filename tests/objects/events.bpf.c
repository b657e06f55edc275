/* Programs that tell user space something: by a ring buffer, by perf events, and one that listens. */
#include "common.h"

#define BYTES 4096
#define CURRENT_CPU 0xffffffffULL

enum { PERF_EVENT_ARRAY = 4, RINGBUF = 27, USER_RINGBUF = 31 };

static long (*bpf_perf_event_output)(void *context, void *map, __u64 flags, void *data,
				     __u64 size) = (void *)25;
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static long (*bpf_ringbuf_output)(void *map, void *data, __u64 size, __u64 flags) = (void *)130;
static void *(*bpf_ringbuf_reserve)(void *map, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
static long (*bpf_dynptr_read)(void *to, __u32 size, void *from, __u32 offset,
			       __u64 flags) = (void *)201;
static long (*bpf_user_ringbuf_drain)(void *map, void *callback, void *context,
				      __u64 flags) = (void *)209;

struct event {
	__u64 number;
	__u32 cpu;
	int change;
};

struct command {
	__u64 add;
	char name[8];
};

/* What the test asks for, and what became of it. */
struct control {
	__u32 count;
	__u32 size;
	__u32 flags;
	__u32 is_done;
	__u64 next;
	__u64 refused;
	__u64 sum;
	__u64 commands;
	__u8 bytes[BYTES];
};

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} samples SEC(".maps");

struct {
	__uint(type, USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

/* So that the object's BTF has these types. */
const struct event *unused_event;
const struct command *unused_command;

static __always_inline struct control *asked(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

static long tell_one(__u32 index, struct control **context)
{
	struct control *all = asked();
	struct event *event;

	if (!all)
		return 1;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		all->refused++;
		return 0;
	}
	event->number = all->next++;
	event->cpu = bpf_get_smp_processor_id();
	event->change = -(int)index;
	bpf_ringbuf_submit(event, all->flags);
	return 0;
}

SEC("xdp")
int tell(struct xdp_md *context)
{
	struct control *all = asked();

	if (all)
		bpf_loop(all->count, tell_one, 0, 0);
	return XDP_PASS;
}

SEC("xdp")
int tell_bytes(struct xdp_md *context)
{
	struct control *all = asked();
	__u64 size = all ? all->size : 0;

	asm volatile("" : "+r"(size)); /* so that the compared size is the one that is used */
	if (!all || size > BYTES)
		return XDP_PASS;
	if (bpf_ringbuf_output(&events, all->bytes, size, all->flags))
		all->refused++;
	return XDP_PASS;
}

SEC("xdp")
int take_back(struct xdp_md *context)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (event)
		bpf_ringbuf_discard(event, 0);
	return XDP_PASS;
}

static long wait_one(__u32 index, void *context)
{
	volatile struct control *all = asked();

	return !all || all->is_done;
}

static long wait_many(__u32 index, void *context)
{
	volatile struct control *all = asked();

	bpf_loop(1 << 20, wait_one, 0, 0);
	return !all || all->is_done;
}

/* Holds a record until the test says that it is done. */
SEC("xdp")
int hold(struct xdp_md *context)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return XDP_PASS;
	bpf_loop(1 << 10, wait_many, 0, 0);
	event->number = 77;
	event->cpu = 0;
	event->change = 0;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

SEC("xdp")
int tell_perf(struct xdp_md *context)
{
	struct control *all = asked();
	struct event event = { .cpu = bpf_get_smp_processor_id(), .change = -1 };

	if (!all)
		return XDP_PASS;
	event.number = all->next++;
	if (bpf_perf_event_output(context, &samples, CURRENT_CPU, &event, sizeof(event)))
		all->refused++;
	return XDP_PASS;
}

SEC("xdp")
int tell_perf_bytes(struct xdp_md *context)
{
	struct control *all = asked();
	__u64 size = all ? all->size : 0;

	asm volatile("" : "+r"(size));
	if (!all || size > BYTES)
		return XDP_PASS;
	/* So that the two comparisons stay two: Linux 6.1 does not follow `size - 1 < BYTES`. */
	asm volatile("" : "+r"(size));
	if (!size)
		return XDP_PASS;
	if (bpf_perf_event_output(context, &samples, CURRENT_CPU, all->bytes, size))
		all->refused++;
	return XDP_PASS;
}

static long obey(void *record, void *context)
{
	struct control *all = asked();
	struct command command = {};

	if (!all || bpf_dynptr_read(&command, sizeof(command), record, 0, 0))
		return 1;
	all->sum += command.add;
	all->commands++;
	return 0;
}

SEC("xdp")
int drain(struct xdp_md *context)
{
	bpf_user_ringbuf_drain(&commands, obey, 0, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
