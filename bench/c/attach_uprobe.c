/* Attaches a program to a function by name, and detaches it, with libbpf; prints the nanoseconds of
 * one attachment with its end, the minimum of some rounds.
 *   attach_uprobe OBJECT PROGRAM FILE FUNCTION ROUNDS
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

int main(int count, char **words)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = words[4]);
	long long least = -1;
	struct bpf_object *object;
	struct bpf_program *program, *each;

	if (count < 6)
		return 2;
	libbpf_set_print(silent);
	object = bpf_object__open_file(words[1], NULL);
	if (!object)
		return 1;
	bpf_object__for_each_program(each, object)
		bpf_program__set_autoload(each, false);
	program = bpf_object__find_program_by_name(object, words[2]);
	if (!program || bpf_program__set_autoload(program, true) || bpf_object__load(object))
		return 1;
	for (int round = 0; round < atoi(words[5]); round++) {
		long long start = now_ns(), taken;
		struct bpf_link *link =
			bpf_program__attach_uprobe_opts(program, -1, words[3], 0, &options);

		if (!link) {
			fprintf(stderr, "libbpf does not find %s\n", words[4]);
			return 1;
		}
		bpf_link__destroy(link);
		taken = now_ns() - start;
		if (least < 0 || taken < least)
			least = taken;
	}
	printf("%lld\n", least);
	return 0;
}
