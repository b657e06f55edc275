/* Programs of the network stack that name their own targets: what they see is counted by program.
 * They count only packets to or from UDP and TCP ports of the tests. */
#include "common.h"

enum { ON_INPUT, ON_OUTPUT, ON_PARSE, ON_VERDICT, ON_MESSAGE, ON_ROUTE, ON_SOCKET, KINDS };

struct {
	__uint(type, ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

#ifndef ANSWER
#define ANSWER 1 /* NF_ACCEPT */
#endif

static __always_inline int count(__u32 kind, int answer)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &kind);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return answer;
}

SEC("netfilter") int on_input(void *context)
{
	return count(ON_INPUT, ANSWER);
}

SEC("?netfilter") int on_output(void *context)
{
	return count(ON_OUTPUT, ANSWER);
}
