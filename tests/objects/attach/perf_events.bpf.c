/* Programs at perf events: what they see is counted by program. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

#define FAULT_AT 0x600000000000 /* where tests/user/probed.c has its page faults */

enum { EVENTS, FAULTS, CPUS, COOKIE, KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline __u64 *counter(__u32 kind)
{
	return bpf_map_lookup_elem(&seen, &kind);
}

SEC("perf_event") int on_event(struct bpf_perf_event_data *event)
{
	__u64 *events = counter(EVENTS), *cpus = counter(CPUS), *cookie = counter(COOKIE);

	if (events)
		__sync_fetch_and_add(events, STEP);
	if (cpus)
		__sync_fetch_and_or(cpus, 1ULL << (bpf_get_smp_processor_id() & 63));
	if (cookie)
		*cookie = bpf_get_attach_cookie(event);
	return 0;
}

SEC("?perf_event") int on_fault(struct bpf_perf_event_data *event)
{
	__u64 *faults = counter(FAULTS);

	if (faults && event->addr == FAULT_AT)
		__sync_fetch_and_add(faults, STEP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
