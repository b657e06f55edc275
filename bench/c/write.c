// The peer of bench/write.py: writes a map with libbpf and prints nanoseconds, the minimum of some
// rounds.
//   write ID ENTRIES
// Keys are u32, starting at 0, and values are u64; 4096 entries per call.
#include <bpf/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH 4096
#define ROUNDS 5

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
	int fd = bpf_map_get_fd_by_id(atoi(argv[1]));
	long entries = atol(argv[2]);
	unsigned int *keys = calloc(entries, sizeof(*keys));
	unsigned long long *values = calloc(entries, sizeof(*values));
	double least = 1e18;

	if (fd < 0 || !keys || !values)
		return 1;
	for (long i = 0; i < entries; i++) {
		keys[i] = i;
		values[i] = 2 * i + 1000;
	}
	for (int round = 0; round < ROUNDS; round++) {
		double start = now_ns(), taken;

		for (long i = 0; i < entries; i += BATCH) {
			unsigned int count = entries - i < BATCH ? entries - i : BATCH;

			if (bpf_map_update_batch(fd, keys + i, values + i, &count, NULL))
				return 2;
		}
		taken = now_ns() - start;
		if (taken < least)
			least = taken;
	}
	printf("%.0f\n", least);
	return 0;
}
