/* Programs at four kinds of hooks whose links cannot change their program. Each counts the events
 * of one test: its system calls have an argument, and its page faults an address, that it wrote down.
 * A test replaces the zeros in the names by a number of its own. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

enum { CALLS, ENTRIES, RETURNS, FAULTS, KINDS };
enum { ARGUMENT = KINDS, ADDRESS, MEMBERS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MEMBERS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

#ifdef NEXT_VERSION
/* The same since this version was loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} since SEC(".maps");
#endif

struct call { /* of a tracepoint of a system call */
	__u64 common;
	__u64 number;
	__u64 argument;
};

static __always_inline void add_one(void *map, __u32 kind)
{
	__u64 *counter = bpf_map_lookup_elem(map, &kind);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline int count(__u32 kind)
{
	add_one(&seen, kind);
#ifdef NEXT_VERSION
	add_one(&since, kind);
#endif
	return 0;
}

static __always_inline int is_written_down(__u32 member, __u64 number)
{
	__u64 *wanted = bpf_map_lookup_elem(&seen, &member);

	return wanted && *wanted == number;
}

SEC("tracepoint/syscalls/sys_enter_getpgid") int call_00000000(struct call *call)
{
	return is_written_down(ARGUMENT, call->argument) ? count(CALLS) : 0;
}

SEC("?uprobe") int entry_00000000(void *context)
{
	return count(ENTRIES);
}

/* No stub may call it: it has a gate. */
SEC("?uprobe.s") int gated_00000000(void *context)
{
	return count(ENTRIES);
}

SEC("?uretprobe") int return_00000000(void *context)
{
	return count(RETURNS);
}

SEC("?perf_event") int fault_00000000(struct bpf_perf_event_data *event)
{
	return is_written_down(ADDRESS, event->addr) ? count(FAULTS) : 0;
}

char LICENSE[] SEC("license") = "GPL";
