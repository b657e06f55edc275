// The peer of bench/fold.py: copies a map of {packets, bytes} into one of {bytes, packets, drops}, in
// batches with libbpf, and prints nanoseconds.
//   fold OLD_ID NEW_ID
// Keys are u32. Because it only copies, it loses what programs count meanwhile.
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH 4096

struct old_value {
	unsigned long long packets, bytes;
};

struct new_value {
	unsigned long long bytes, packets, drops;
};

static unsigned int keys[BATCH];
static struct old_value from[BATCH];
static struct new_value to[BATCH];

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 1;
	int old_fd = bpf_map_get_fd_by_id(atoi(argv[1])), new_fd = bpf_map_get_fd_by_id(atoi(argv[2]));
	unsigned int position[4], *from_here = NULL;
	double start = now_ns();

	if (old_fd < 0 || new_fd < 0)
		return 1;
	for (int end = 0; !end;) {
		unsigned int count = BATCH;

		if (bpf_map_lookup_batch(old_fd, from_here, position, keys, from, &count, NULL)) {
			if (errno != ENOENT)
				return 2;
			end = 1;
		}
		from_here = position;
		for (unsigned int i = 0; i < count; i++)
			to[i] = (struct new_value){from[i].bytes, from[i].packets, 0};
		if (count && bpf_map_update_batch(new_fd, keys, to, &count, NULL))
			return 3;
	}
	printf("%.0f\n", now_ns() - start);
	return 0;
}
