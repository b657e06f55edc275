/* Programs that no stub may call, at functions of user programs and at a tracepoint: they begin with
 * a gate. What they see is counted by program.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

enum { ENTRY, RETURN, MANY, SESSION, PROBE, CALL, BEYOND, KINDS };

#define NUMBERS (1 << 22) /* words of eight bytes, a byte for each event */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct far {
	char bytes[4096];
	__u64 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct far);
} far SEC(".maps");

static __noinline int count(__u32 kind)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &kind);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return 0;
}

SEC("?uprobe.s") int on_sleepable(void *context)
{
	return count(ENTRY);
}

SEC("?uretprobe.s") int on_return(void *context)
{
	return count(RETURN);
}

SEC("?uprobe.multi.s") int on_many(void *context)
{
	return count(MANY);
}

SEC("?uprobe.session.s") int on_session(void *context)
{
	return count(SESSION);
}

SEC("?usdt.s") int on_probe(void *context)
{
	return count(PROBE);
}

/* Reads more bytes than the record of the tracepoint has, but not of the record. */
SEC("?tracepoint") int on_call(void *record)
{
	__u32 first = 0;
	struct far *value = bpf_map_lookup_elem(&far, &first);

	if (value && value->last)
		return 0;
	count(CALL);
	return 1; /* perf goes on with the event */
}

#ifdef NUMBERED
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NUMBERS);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

/* Counts each event by its number, and all of them. */
static __always_inline int count_number(__u64 number)
{
	__u32 word = number / 8;
	__u64 *counter = bpf_map_lookup_elem(&numbers, &word);

	if (counter)
		__sync_fetch_and_add(counter, 1ULL << 8 * (number % 8));
	else
		count(BEYOND);
	return count(ENTRY);
}

/* The number is the first argument of the function. */
SEC("?uprobe.s") int BPF_UPROBE(on_number, unsigned long number)
{
	return count_number(number);
}

/* And its result is 10 more. */
SEC("?uretprobe.s") int BPF_URETPROBE(on_result, unsigned long result)
{
	return count_number(result - 10);
}
#endif

char LICENSE[] SEC("license") = "GPL";
