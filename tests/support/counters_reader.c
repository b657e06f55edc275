/* Reads the counters of a device as a C program does that knows no more than their layout.
 *
 *     counters_reader DEV
 *
 * Opens /sys/fs/bpf/DEV/xdp_stats_map with libbpf, asks the kernel whether it is what it should be,
 * and writes for each of its five keys the packets and bytes of all CPUs together. */
#include <stdio.h>
#include <stdlib.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define VERDICTS 5

struct datarec {
	__u64 rx_packets;
	__u64 rx_bytes;
};

static int open_counters(const char *device)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/sys/fs/bpf/%s/xdp_stats_map", device);
	fd = bpf_obj_get(path);
	if (fd < 0)
		perror(path);
	return fd;
}

static int is_as_expected(int fd)
{
	struct bpf_map_info info = {};
	__u32 size = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &size))
		return 0;
	return info.type == BPF_MAP_TYPE_PERCPU_ARRAY && info.key_size == sizeof(__u32) &&
	       info.value_size == sizeof(struct datarec) && info.max_entries == VERDICTS;
}

static int write_total(int fd, __u32 key, int cpus)
{
	struct datarec *values = calloc(cpus, sizeof(*values));
	struct datarec total = {};
	int is_read = values && !bpf_map_lookup_elem(fd, &key, values);

	for (int cpu = 0; is_read && cpu < cpus; cpu++) {
		total.rx_packets += values[cpu].rx_packets;
		total.rx_bytes += values[cpu].rx_bytes;
	}
	free(values);
	if (is_read)
		printf("%u %llu %llu\n", key, total.rx_packets, total.rx_bytes);
	return is_read;
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open_counters(argv[1]) : -1;

	if (fd < 0 || !is_as_expected(fd))
		return 1;
	for (__u32 key = 0; key < VERDICTS; key++)
		if (!write_total(fd, key, libbpf_num_possible_cpus()))
			return 1;
	return 0;
}
