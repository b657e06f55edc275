/* Programs at functions of user programs: what they see is counted by program, and kept. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

enum { ENTRY, RETURN, ARGUMENT, COOKIE, KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline int count(__u32 kind)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &kind);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return 0;
}

static __always_inline void keep(__u32 kind, __u64 number)
{
	__u64 *kept = bpf_map_lookup_elem(&seen, &kind);

	if (kept)
		*kept = number;
}

SEC("?uprobe") int BPF_UPROBE(on_entry, long first, long second)
{
	keep(ARGUMENT, first * 1000 + second);
	keep(COOKIE, bpf_get_attach_cookie(ctx));
	return count(ENTRY);
}

SEC("?uretprobe") int BPF_URETPROBE(on_return, long result)
{
	keep(ARGUMENT, result);
	return count(RETURN);
}

SEC("?uprobe.s") int BPF_UPROBE(on_sleepable)
{
	return count(ENTRY);
}

SEC("?uprobe/libc:getppid") int BPF_UPROBE(on_library)
{
	return count(ENTRY);
}

SEC("?uprobe.multi") int BPF_UPROBE(on_many)
{
	keep(COOKIE, bpf_get_attach_cookie(ctx));
	return count(ENTRY);
}

SEC("?uretprobe.multi") int BPF_URETPROBE(on_many_returns)
{
	return count(RETURN);
}

SEC("?uprobe.session") int BPF_UPROBE(on_session)
{
	return count(ENTRY);
}

char LICENSE[] SEC("license") = "GPL";
