/* Opens and loads one object repeatedly with libbpf. Prints one line per load: the nanoseconds of
 * opening and of loading. Closing is not measured.
 */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int silent(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level, (void)format, (void)arguments;
	return 0;
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 1;

	if (argc < 2)
		return 2;
	libbpf_set_print(silent);
	for (int round = 0; round < rounds; round++) {
		long long start = now_ns();
		struct bpf_object *object = bpf_object__open_file(argv[1], NULL);
		long long opened = now_ns();

		if (!object || bpf_object__load(object)) {
			fprintf(stderr, "libbpf does not load %s\n", argv[1]);
			return 1;
		}
		printf("%lld %lld\n", opened - start, now_ns() - opened);
		bpf_object__close(object);
	}
	return 0;
}
