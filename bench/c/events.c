// The peer of bench/events.py: reads events with libbpf and prints nanoseconds per event, the minimum
// of some rounds. Each round runs the program once, which fills the ring.
//   events MAP_ID PROGRAM_ID ROUNDS
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct event {
	unsigned long long number, bytes;
	unsigned int device;
	int change;
};

static unsigned long long sum;

static int take(void *context, void *data, size_t size)
{
	const struct event *event = data;

	sum += event->number + event->bytes + event->change;
	return 0;
}

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 1;
	int program = bpf_prog_get_fd_by_id(atoi(argv[2]));
	struct ring_buffer *ring =
		ring_buffer__new(bpf_map_get_fd_by_id(atoi(argv[1])), take, NULL, NULL);
	char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_size_in = sizeof(packet),
		    .repeat = 1);
	double least = 1e18;

	if (program < 0 || !ring)
		return 1;
	for (int round = 0; round < atoi(argv[3]); round++) {
		if (bpf_prog_test_run_opts(program, &run))
			return 2;
		double start = now_ns();
		int taken = ring_buffer__consume(ring);
		double each = (now_ns() - start) / taken;

		if (taken <= 0)
			return 3;
		if (each < least)
			least = each;
	}
	printf("%f\n", least);
	return sum == 0;
}
