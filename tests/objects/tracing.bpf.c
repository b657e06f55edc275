/* Programs that name their own targets: what they see is counted by program.
 * The system calls are such that nobody else makes. */
#include "common.h"

enum { ON_CALL, ON_OTHER, ON_RAW, ON_LOOKUP, KINDS };

struct {
	__uint(type, ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

#ifndef SCHED_GETPARAM /* its number, on x86-64 */
#define SCHED_GETPARAM 143
#endif

#ifndef FAR /* which argument is read */
#define FAR 0
#endif

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

struct record { /* of a tracepoint of a system call with few arguments */
	__u64 common;
	__u64 number;
	__u64 arguments[100];
};

static __always_inline int count(__u32 kind)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &kind);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_sched_getparam") int on_call(void *context)
{
	return count(ON_CALL);
}

SEC("tp/syscalls/sys_enter_sched_rr_get_interval") int on_other(void *context)
{
	return count(ON_OTHER);
}

SEC("raw_tp/sys_enter") int on_raw(void *context)
{
	return count(ON_RAW);
}

SEC("?tracepoint") int anywhere(void *context)
{
	return count(ON_CALL);
}

SEC("?tracepoint") int reads_far(struct record *record)
{
	return record->arguments[FAR] == 1 ? 0 : count(ON_CALL);
}

/* System calls of one number only: those that the caller of a test makes. */
SEC("?raw_tp/sys_enter") int on_pid(struct record *record)
{
	return record->number == SCHED_GETPARAM ? count(ON_RAW) : 0;
}

SEC("sk_lookup") int on_lookup(void *context)
{
	count(ON_LOOKUP);
	return 1; /* SK_PASS */
}
