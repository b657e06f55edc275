// The peer of bench/reload.py: the system calls of one reload, in the same order, and nothing else.
//   reload BPFFS IFINDEX OBJECT OBJECT
// Creates a set with the first object. For each line on its input it reloads the set, alternating
// the objects, and prints the nanoseconds of the whole reload and of BPF_LINK_UPDATE. libbpf reads
// the objects once, before the clock starts, and what it would pass to the kernel is kept, so that a
// round consists of system calls only.
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAPS 2
#define LIVE "peer"
#define STAGE "peer~stage"

struct object {
	struct bpf_insn *code;
	size_t slots, btf_size;
	const void *btf;
	void *functions, *lines;
	struct bpf_prog_load_opts options;
	int map_of_slot[512]; // -1: no reference
	char name[64];
};

static const char *const map_names[MAPS] = { "xdp_stats_map", "action" };
static char manifest[372], layout[300]; // as long as bpfpin's
static int root, ifindex;
static int opened[64], opened_count; // closed together, at the end of a round

static int sure(int answer, const char *what)
{
	if (answer < 0) {
		perror(what);
		exit(1);
	}
	return answer;
}

static int noted(int fd)
{
	return opened[opened_count++] = fd;
}

static void all_closed(void)
{
	while (opened_count)
		close(opened[--opened_count]);
}

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

/* --- what libbpf passes to the kernel for an object, recorded once --- */

static void *copied(const void *data, size_t size)
{
	return data ? memcpy(malloc(size), data, size) : NULL;
}

static int remember(struct bpf_program *program, struct bpf_prog_load_opts *options, long cookie)
{
	struct object *object = (struct object *)cookie;

	(void)program;
	object->options = *options;
	object->options.log_buf = NULL;
	object->options.log_size = object->options.log_level = 0;
	object->functions = copied(options->func_info,
				   options->func_info_cnt * options->func_info_rec_size);
	object->lines = copied(options->line_info,
			       options->line_info_cnt * options->line_info_rec_size);
	return 0;
}

static struct object read_object(const char *path)
{
	struct object object = { .slots = 0 };
	LIBBPF_OPTS(libbpf_prog_handler_opts, handler, .cookie = (long)&object,
		    .prog_prepare_load_fn = remember);
	int id = sure(libbpf_register_prog_handler("xdp", BPF_PROG_TYPE_XDP, BPF_XDP, &handler),
		      "handler");
	struct bpf_object *read = bpf_object__open_file(path, NULL);
	struct bpf_program *program;

	if (!read || bpf_object__load(read)) {
		fprintf(stderr, "libbpf does not load %s\n", path);
		exit(1);
	}
	program = bpf_object__next_program(read, NULL);
	snprintf(object.name, sizeof(object.name), "%s", bpf_program__name(program));
	object.slots = bpf_program__insn_cnt(program);
	object.code = copied(bpf_program__insns(program), object.slots * sizeof(struct bpf_insn));
	object.btf = btf__raw_data(bpf_object__btf(read), (unsigned int *)&object.btf_size);
	for (size_t slot = 0; slot < object.slots; slot++) {
		object.map_of_slot[slot] = -1;
		for (int map = 0; map < MAPS && object.code[slot].src_reg == BPF_PSEUDO_MAP_FD; map++)
			if (object.code[slot].imm ==
			    bpf_object__find_map_fd_by_name(read, map_names[map]))
				object.map_of_slot[slot] = map;
	}
	libbpf_unregister_prog_handler(id);
	return object;
}

/* --- the system calls --- */

static int maybe_directory(int in, const char *name)
{
	struct open_how how = { .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH };

	return syscall(SYS_openat2, in, name, &how, sizeof(how));
}

static int directory(int in, const char *name)
{
	return noted(sure(maybe_directory(in, name), name));
}

static int made(int in, const char *name)
{
	sure(mkdirat(in, name, 0700), name);
	return directory(in, name);
}

static void pin(int fd, int in, const char *name)
{
	char path[300];

	sprintf(path, "/proc/self/fd/%d/%s", in, name);
	sure(bpf_obj_pin(fd, path), path);
}

static int open_pin(int in, const char *name)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH };
	int place = noted(sure(syscall(SYS_openat2, in, name, &how, sizeof(how)), name));
	char path[300];

	sprintf(path, "/proc/self/fd/%d", place);
	return noted(sure(bpf_obj_get(path), path));
}

static int load(const struct object *object, const int *maps)
{
	struct bpf_prog_load_opts options = object->options;
	int btf = noted(sure(bpf_btf_load(object->btf, object->btf_size, NULL), "BTF"));

	for (size_t slot = 0; slot < object->slots; slot++)
		if (object->map_of_slot[slot] >= 0)
			object->code[slot].imm = maps[object->map_of_slot[slot]];
	options.prog_btf_fd = btf;
	options.func_info = object->functions;
	options.line_info = object->lines;
	options.expected_attach_type = BPF_XDP;
	return noted(sure(bpf_prog_load(BPF_PROG_TYPE_XDP, object->name, "Dual MIT/GPL",
					object->code, object->slots, &options),
			  "program"));
}

static void asked(int fd)
{
	char info[256] = { 0 };
	unsigned int size = sizeof(info);

	sure(bpf_obj_get_info_by_fd(fd, info, &size), "info");
}

static void listed(int in)
{
	char buffer[4096];

	sure(lseek(in, 0, SEEK_SET), "lseek");
	while (syscall(SYS_getdents64, in, buffer, sizeof(buffer)) > 0)
		;
}

static void manifest_read(int in)
{
	char text[4096];

	sure(readlinkat(in, "manifest~", text, sizeof(text)), "manifest~");
}

static void kept(int from, int to, const char *name)
{
	sure(linkat(from, name, to, name, 0), name);
}

static void removed(int in, const char *name)
{
	sure(unlinkat(in, name, 0), name);
}

static void folder_removed(int in, const char *name, const char *only)
{
	int folder = directory(in, name);

	listed(folder);
	removed(folder, only);
	sure(unlinkat(in, name, AT_REMOVEDIR), name);
}

/* --- a reload, in the order of the transaction --- */

struct stage {
	int directory, programs, links, layouts;
};

struct live {
	int directory, programs, links, link, program, maps[MAPS];
};

/* Checks that no change is half-done, and opens and queries the loaded objects. */
static struct live looked_at(const char *program)
{
	struct live live;
	struct stat status;

	if (maybe_directory(root, STAGE) >= 0)
		exit(1);
	live.directory = directory(root, LIVE);
	if (!fstatat(live.directory, "commit~", &status, AT_SYMLINK_NOFOLLOW))
		exit(1);
	manifest_read(live.directory);
	listed(live.directory);
	live.programs = directory(live.directory, "programs~");
	listed(live.programs);
	live.links = directory(live.directory, "links~");
	listed(live.links);
	live.link = open_pin(live.links, "xdp");
	asked(live.link);
	live.program = open_pin(live.programs, program);
	asked(live.program);
	for (int map = 0; map < MAPS; map++) {
		live.maps[map] = open_pin(live.directory, map_names[map]);
		asked(live.maps[map]);
	}
	return live;
}

static struct stage new_stage(void)
{
	struct stage stage = { .directory = made(root, STAGE) };

	stage.programs = made(stage.directory, "programs~");
	stage.links = made(stage.directory, "links~");
	stage.layouts = made(stage.directory, "layouts~");
	sure(renameat2(stage.directory, "programs~", stage.directory, "layouts~", RENAME_EXCHANGE),
	     "exchange");
	sure(renameat2(stage.directory, "programs~", stage.directory, "layouts~", RENAME_EXCHANGE),
	     "exchange");
	return stage;
}

static void described(const struct stage *stage)
{
	for (int map = 0; map < MAPS; map++)
		sure(symlinkat(layout, stage->layouts, map_names[map]), "layout");
	sure(symlinkat(manifest, stage->directory, "manifest~"), "manifest~");
}

static void built(const struct stage *stage, const struct live *live, int program, const char *name)
{
	int previous;

	for (int map = 0; map < MAPS; map++)
		kept(live->directory, stage->directory, map_names[map]);
	pin(program, stage->programs, name);
	kept(live->links, stage->links, "xdp");
	previous = made(stage->directory, "previous~");
	pin(live->program, previous, "xdp");
	asked(program);
	described(stage);
}

/* Switches the hook with the pins in the stage, as crash recovery would do it. */
static long long switched(const struct stage *stage, const char *name)
{
	int previous = directory(stage->directory, "previous~");
	int link = open_pin(stage->links, "xdp"), new = open_pin(stage->programs, name);
	int old = open_pin(previous, "xdp");
	LIBBPF_OPTS(bpf_link_update_opts, options, .flags = BPF_F_REPLACE, .old_prog_fd = old);
	long long start;

	start = now_ns();
	sure(bpf_link_update(link, new, &options), "update");
	return now_ns() - start;
}

/* Removes a generation, beginning with its link. */
static void old_removed(const char *name, const char *program)
{
	int old = directory(root, name), layouts;

	listed(old);
	folder_removed(old, "links~", "xdp");
	layouts = directory(old, "layouts~");
	listed(layouts);
	for (int map = 0; map < MAPS; map++)
		removed(layouts, map_names[map]);
	sure(unlinkat(old, "layouts~", AT_REMOVEDIR), "layouts~");
	folder_removed(old, "programs~", program);
	for (int map = 0; map < MAPS; map++)
		removed(old, map_names[map]);
	removed(old, "manifest~");
	sure(unlinkat(root, name, AT_REMOVEDIR), name);
}

static long long reload(const struct object *object, const struct object *before)
{
	int lock = directory(root, "bpfpin~"), program;
	struct stage stage;
	struct live live;
	long long update;

	sure(flock(lock, LOCK_EX | LOCK_NB), "lock");
	live = looked_at(before->name);
	program = load(object, live.maps);
	stage = new_stage();
	built(&stage, &live, program, object->name);
	sure(mkdirat(stage.directory, "commit~", 0700), "commit~");
	update = switched(&stage, object->name);
	sure(renameat2(root, STAGE, root, LIVE, RENAME_EXCHANGE), "exchange");
	folder_removed(stage.directory, "previous~", "xdp");
	sure(unlinkat(stage.directory, "commit~", AT_REMOVEDIR), "commit~");
	old_removed(STAGE, before->name);
	all_closed();
	return update;
}

static void first_load(const struct object *object)
{
	struct bpf_link_create_opts options = { .sz = sizeof(options), .flags = XDP_FLAGS_DRV_MODE };
	struct stage stage = new_stage();
	int maps[MAPS], program, link;

	maps[0] = bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, map_names[0], 4, 16, 5, NULL);
	maps[1] = bpf_map_create(BPF_MAP_TYPE_ARRAY, map_names[1], 4, 4, 1, NULL);
	for (int map = 0; map < MAPS; map++)
		pin(noted(sure(maps[map], "map")), stage.directory, map_names[map]);
	program = load(object, maps);
	pin(program, stage.programs, object->name);
	link = noted(sure(bpf_link_create(program, ifindex, BPF_XDP, &options), "link"));
	pin(link, stage.links, "xdp");
	described(&stage);
	sure(renameat2(root, STAGE, root, LIVE, RENAME_NOREPLACE), LIVE);
	all_closed();
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	libbpf_set_print(silent);
	struct object objects[] = { read_object(argv[3]), read_object(argv[4]) };
	char line[16];
	int turn = 0;

	ifindex = atoi(argv[2]);
	root = sure(open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC), argv[1]);
	memset(manifest, 'm', sizeof(manifest) - 1);
	memset(layout, 'l', sizeof(layout) - 1);
	mkdirat(root, "bpfpin~", 0700);
	first_load(&objects[0]);
	while (fgets(line, sizeof(line), stdin)) {
		long long start = now_ns(), update;

		update = reload(&objects[1 - turn], &objects[turn]);
		printf("%lld %lld\n", now_ns() - start, update);
		fflush(stdout);
		turn = 1 - turn;
	}
	old_removed(LIVE, objects[turn].name);
	return 0;
}
