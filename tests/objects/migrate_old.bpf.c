/* The layout before: packets, and the bytes of a flow. */
struct count {
	unsigned long long packets;
};

struct flow {
	unsigned long long packets;
	unsigned long long bytes;
};

#define COUNT_MORE(count, bytes) ((void)bytes)
#include "migrate.h"

/* Only here: it goes with this version. */
struct {
	__uint(type, ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} last_port SEC(".maps");
