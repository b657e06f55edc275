/* Iterators: one that writes text, one that writes records, one of the cgroups. */
#include "common.h"

#define KERNEL __attribute__((preserve_access_index))
#ifndef WORD /* the first word of each line: versions differ in it */
#define WORD "first"
#endif

static long (*bpf_seq_printf)(void *seq, const char *format, __u32 size, const void *data,
			      __u32 data_size) = (void *)126;
static long (*bpf_seq_write)(void *seq, const void *data, __u32 size) = (void *)127;

struct bpf_iter_meta {
	void *seq;
} KERNEL;

struct task_struct {
	int pid;
	int tgid;
} KERNEL;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} KERNEL;

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	__u32 *key;
	__u64 *value;
} KERNEL;

struct kernfs_node {
	__u64 id;
} KERNEL;

struct cgroup {
	struct kernfs_node *kn;
} KERNEL;

struct bpf_iter__cgroup {
	struct bpf_iter_meta *meta;
	struct cgroup *cgroup;
} KERNEL;

struct record {
	__u32 key;
	char word[12];
	__u64 value;
};

/* Compilers describe the types of globals, and not those of variables in functions. */
struct record *type_of_records __attribute__((unused));

struct {
	__uint(type, ARRAY);
	__uint(max_entries, 300);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("iter/task")
int tasks(struct bpf_iter__task *context)
{
	static const char format[] = WORD " %d %d\n";
	struct task_struct *task = context->task;
	__u64 numbers[2];

	if (!task)
		return 0;
	numbers[0] = task->tgid;
	numbers[1] = task->pid;
	bpf_seq_printf(context->meta->seq, format, sizeof(format), numbers, sizeof(numbers));
	return 0;
}

SEC("?iter/bpf_map_elem")
int elements(struct bpf_iter__bpf_map_elem *context)
{
	struct record record = { .word = WORD };
	__u64 *value = context->value;
	__u32 *key = context->key;

	if (!key || !value)
		return 0;
	record.key = *key;
	record.value = *value;
	bpf_seq_write(context->meta->seq, &record, sizeof(record));
	return 0;
}

SEC("?iter/cgroup")
int cgroups(struct bpf_iter__cgroup *context)
{
	static const char format[] = WORD " %llu\n";
	struct cgroup *cgroup = context->cgroup;
	__u64 number;

	if (!cgroup)
		return 0;
	number = cgroup->kn->id;
	bpf_seq_printf(context->meta->seq, format, sizeof(format), &number, sizeof(number));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
