/* The layout after: more members, and in another order. */
struct count {
	unsigned long long bytes;
	unsigned long long packets;
	unsigned long long drops;
};

struct flow {
	unsigned long long bytes;
	unsigned long long packets;
	unsigned long long drops;
};

#define COUNT_MORE(count, number) (count->bytes += number, count->drops += 1)
#include "migrate.h"
