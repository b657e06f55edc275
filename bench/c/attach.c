/* Attaches a program to a hook and detaches it, with libbpf; prints the nanoseconds of one attachment
 * with its end, the minimum of some rounds.
 *   attach OBJECT KIND ROUNDS PAUSE_S ROUNDS_S [TARGET] [DETAIL]
 * It makes so many rounds with a pause before each, and then goes on for some seconds. The program is
 * `on_KIND`. Kinds that libbpf 1.1 does not know are attached by its bpf_link_create(), or by the
 * system call.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Of linux/bpf.h of newer kernels. */
#define TYPE_NETFILTER 32
#define ATTACH_STRUCT_OPS 44
#define ATTACH_NETFILTER 45
#define ATTACH_TCX_INGRESS 46
#define ATTACH_UPROBE_MULTI 48
#define FLAG_LINK (1U << 13)
#define MOST_CPUS 1024
#define MOST_TRIES 1000
#define MOST_OFFSETS 16

/* The part of union bpf_attr that BPF_LINK_CREATE reads. */
struct link_create {
	__u32 program, target, attach_type, flags;
	union {
		struct {
			__u32 family, hook;
			__s32 priority;
			__u32 flags;
		} netfilter;
		struct {
			__u64 path, offsets, reference_counters, cookies;
			__u32 count, flags, pid;
		} uprobe_multi;
	};
};

static struct bpf_object *object;
static struct bpf_program *program;
static const char *target, *detail;

/* What is attached: links of libbpf, or a descriptor. */
static struct bpf_link *links[MOST_CPUS];
static int number_of_links, descriptor = -1;

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

static int attached(struct bpf_link *link)
{
	if (!link)
		return -1;
	links[number_of_links++] = link;
	return 0;
}

static int linked(int fd)
{
	descriptor = fd;
	return fd < 0 ? -1 : 0;
}

static int own_fd(void)
{
	return bpf_program__fd(program);
}

static int map_fd(const char *name)
{
	return bpf_map__fd(bpf_object__find_map_by_name(object, name));
}

static int create(struct link_create *wanted, int attach_type)
{
	wanted->program = own_fd();
	wanted->attach_type = attach_type;
	return linked(syscall(SYS_bpf, BPF_LINK_CREATE, wanted, sizeof(*wanted)));
}

static int xdp(void)
{
	return attached(bpf_program__attach_xdp(program, if_nametoindex(target)));
}

static int tcx(void)
{
	return linked(bpf_link_create(own_fd(), if_nametoindex(target), ATTACH_TCX_INGRESS, NULL));
}

static int cgroup(void)
{
	int folder = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int status = attached(bpf_program__attach_cgroup(program, folder));

	close(folder);
	return status;
}

static int tracepoint(void)
{
	return attached(bpf_program__attach_tracepoint(program, target, detail));
}

static int raw_tracepoint(void)
{
	return attached(bpf_program__attach_raw_tracepoint(program, target));
}

static int uprobe(void)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = detail);

	return attached(bpf_program__attach_uprobe_opts(program, -1, target, 0, &options));
}

static int uprobe_multi(void)
{
	__u64 offsets[MOST_OFFSETS];
	struct link_create wanted = { 0 };
	const char *rest = detail;
	char *end;

	for (; *rest && wanted.uprobe_multi.count < MOST_OFFSETS; rest = *end ? end + 1 : end)
		offsets[wanted.uprobe_multi.count++] = strtoull(rest, &end, 0);
	wanted.uprobe_multi.path = (unsigned long)target;
	wanted.uprobe_multi.offsets = (unsigned long)offsets;
	return create(&wanted, ATTACH_UPROBE_MULTI);
}

static int usdt(void)
{
	return attached(bpf_program__attach_usdt(program, -1, target, "bench", detail, NULL));
}

static int perf_event(void)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(event),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_freq = 1,
		.freq = 1,
	};
	int cpus = sysconf(_SC_NPROCESSORS_ONLN), status = 0;

	for (int cpu = 0; cpu < cpus && !status; cpu++) {
		int fd = syscall(SYS_perf_event_open, &event, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

		status = fd < 0 || attached(bpf_program__attach_perf_event(program, fd));
	}
	return status;
}

static int sk_lookup(void)
{
	int namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int status = attached(bpf_program__attach_netns(program, namespace));

	close(namespace);
	return status;
}

static int netfilter(void)
{
	/* NFPROTO_IPV4 and NF_INET_LOCAL_IN. */
	struct link_create wanted = { .netfilter = { .family = 2, .hook = 1, .priority = 7 } };

	return create(&wanted, ATTACH_NETFILTER);
}

static int sockmap(void)
{
	return linked(bpf_link_create(own_fd(), map_fd("sockets"), BPF_SK_MSG_VERDICT, NULL));
}

static int iter(void)
{
	return attached(bpf_program__attach_iter(program, NULL));
}

static int struct_ops(void)
{
	return linked(bpf_link_create(map_fd("table"), 0, ATTACH_STRUCT_OPS, NULL));
}

static const struct kind {
	const char *name;
	int (*attach)(void);
} kinds[] = {
	{ "xdp", xdp },
	{ "tcx", tcx },
	{ "cgroup", cgroup },
	{ "tracepoint", tracepoint },
	{ "raw_tracepoint", raw_tracepoint },
	{ "uprobe", uprobe },
	{ "uprobe_multi", uprobe_multi },
	{ "usdt", usdt },
	{ "perf_event", perf_event },
	{ "sk_lookup", sk_lookup },
	{ "netfilter", netfilter },
	{ "sockmap", sockmap },
	{ "iter", iter },
	{ "struct_ops", struct_ops },
};

static const struct kind *kind_of(const char *name)
{
	for (size_t number = 0; number < sizeof(kinds) / sizeof(*kinds); number++)
		if (!strcmp(kinds[number].name, name))
			return &kinds[number];
	return NULL;
}

/* Loads the program of the kind alone. */
static int load_program(const char *kind)
{
	struct bpf_program *each;
	char name[64];

	snprintf(name, sizeof(name), "on_%s", kind);
	bpf_object__for_each_program(each, object)
		bpf_program__set_autoload(each, false);
	program = bpf_object__find_program_by_name(object, name);
	if (!program || bpf_program__set_autoload(program, true))
		return -1;
	if (!strcmp(kind, "netfilter")) {
		bpf_program__set_type(program, TYPE_NETFILTER);
		bpf_program__set_expected_attach_type(program, ATTACH_NETFILTER);
	}
	if (!strcmp(kind, "uprobe_multi")) {
		bpf_program__set_type(program, BPF_PROG_TYPE_KPROBE);
		bpf_program__set_expected_attach_type(program, ATTACH_UPROBE_MULTI);
	}
	return bpf_object__load(object);
}

/* Loads the table and fills it, as bpf_map__attach_struct_ops() does before it makes a link. */
static int load_table(void)
{
	struct bpf_map *table = bpf_object__find_map_by_name(object, "table");
	struct bpf_link *link;

	if (!table || bpf_map__set_map_flags(table, FLAG_LINK) || bpf_object__load(object))
		return -1;
	link = bpf_map__attach_struct_ops(table);
	if (!link)
		return -1;
	bpf_link__destroy(link);
	return 0;
}

/* Whether somebody who lists the links of the host still holds the last one; waits a moment. */
static int is_held(int *tries)
{
	if ((errno != EBUSY && errno != EEXIST) || ++*tries > MOST_TRIES)
		return 0;
	usleep(1000);
	return 1;
}

static int refused(const char *what)
{
	perror(what);
	return 1;
}

int main(int count, char **words)
{
	long long least = -1, end = 0;
	int tries = 0;
	const struct kind *kind;

	if (count < 6)
		return 2;
	target = count > 6 ? words[6] : "";
	detail = count > 7 ? words[7] : "";
	kind = kind_of(words[2]);
	libbpf_set_print(silent);
	object = bpf_object__open_file(words[1], NULL);
	if (!kind || !object)
		return refused("open");
	if (kind->attach == struct_ops ? load_table() : load_program(kind->name))
		return refused("load");
	for (int round = 0; round < atoi(words[3]) || now_ns() < end; round++) {
		long long start, taken;

		if (round < atoi(words[3])) {
			usleep(atof(words[4]) * 1e6);
			end = now_ns() + (long long)(atof(words[5]) * 1e9);
		}
		start = now_ns();
		if (kind->attach()) {
			if (!is_held(&tries))
				return refused("attach");
			continue;
		}
		while (number_of_links)
			bpf_link__destroy(links[--number_of_links]);
		if (descriptor >= 0)
			close(descriptor);
		taken = now_ns() - start;
		if (least < 0 || taken < least)
			least = taken;
	}
	printf("%lld\n", least);
	return 0;
}
