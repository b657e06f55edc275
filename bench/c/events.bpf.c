/* The program of bench/events.py: each run sends the requested number of events. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u64 number;
	__u64 bytes;
	__u32 device;
	__s32 change;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

const struct event *unused_event; /* puts the type into the BTF */

__u32 asked;
__u64 number;
__u64 refused;

static long send_one(__u32 index, void *context)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		refused++;
		return 0;
	}
	event->number = number++;
	event->bytes = 64 + (index & 1023);
	event->device = 2;
	event->change = -(__s32)index;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("xdp")
int send(struct xdp_md *context)
{
	bpf_loop(asked, send_one, 0, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
