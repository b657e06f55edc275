// The peer of bench/read.py: reads a map with libbpf and prints nanoseconds, the minimum of some rounds.
//   read lookup|batch ID KEY_SIZE VALUE_SIZE ENTRIES CALLS
// VALUE_SIZE is the number of bytes that the kernel copies, for all CPUs together. `batch` reads
// ENTRIES in one call; if there are more than 4096, it reads the whole map once, 4096 per call.
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 4096
#define ROUNDS 7

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

struct buffers {
	int fd;
	unsigned int count;
	char *keys, *values, position[256];
};

static void lookup(struct buffers *b)
{
	if (bpf_map_lookup_elem(b->fd, b->keys, b->values))
		exit(2);
}

static void batch(struct buffers *b)
{
	unsigned int count = b->count;

	if (bpf_map_lookup_batch(b->fd, NULL, b->position, b->keys, b->values, &count, NULL) &&
	    errno != ENOENT)
		exit(3);
}

static void dump(struct buffers *b)
{
	char *from = NULL;
	int error;

	do {
		unsigned int count = BATCH;

		error = bpf_map_lookup_batch(b->fd, from, b->position, b->keys, b->values, &count, NULL);
		if (error && errno != ENOENT)
			exit(4);
		from = b->position;
	} while (!error);
}

int main(int argc, char **argv)
{
	if (argc != 7)
		return 1;
	int fd = bpf_map_get_fd_by_id(atoi(argv[2]));
	size_t key_size = atoi(argv[3]), value_size = atoi(argv[4]), entries = atol(argv[5]);
	size_t room = entries > BATCH ? BATCH : entries;
	long calls = atol(argv[6]);
	struct buffers b = { fd, room, calloc(room, key_size), calloc(room, value_size), "" };
	void (*read)(struct buffers *) = !strcmp(argv[1], "lookup") ? lookup :
					 entries > BATCH ? dump : batch;
	double least = 1e18;

	if (fd < 0 || !b.keys || !b.values)
		return 1;
	for (int round = 0; round < ROUNDS; round++) {
		double start = now_ns(), taken;

		for (long i = 0; i < calls; i++)
			read(&b);
		taken = (now_ns() - start) / calls;
		if (taken < least)
			least = taken;
	}
	printf("%.0f\n", least);
	return 0;
}
