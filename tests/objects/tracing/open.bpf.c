// Who opens which file: tracepoints of a system call, a hash between entry and exit, a perf buffer.
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

#define NAME_MAX 255

const volatile pid_t target_pid = 0;
const volatile uid_t target_uid = (uid_t)-1;
const volatile bool only_failed = false;

struct args {
	const char *name;
	int flags;
};

struct event {
	__u64 at;
	pid_t pid;
	uid_t uid;
	int result;
	int flags;
	char comm[TASK_COMM_LEN];
	char name[NAME_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u32);
	__type(value, struct args);
} start SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} events SEC(".maps");

static __always_inline bool is_traced(u32 tgid)
{
	if (target_pid && target_pid != tgid)
		return false;
	return target_uid == (uid_t)-1 || target_uid == (u32)bpf_get_current_uid_gid();
}

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(struct trace_event_raw_sys_enter *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 thread = id;

	if (is_traced(id >> 32)) {
		struct args args = { .name = (const char *)ctx->args[1], .flags = ctx->args[2] };

		bpf_map_update_elem(&start, &thread, &args, BPF_ANY);
	}
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int leave(struct trace_event_raw_sys_exit *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 thread = id;
	struct args *args = bpf_map_lookup_elem(&start, &thread);
	struct event event = {};

	if (!args)
		return 0;
	event.result = ctx->ret;
	if (!only_failed || event.result < 0) {
		event.at = bpf_ktime_get_ns();
		event.pid = id >> 32;
		event.uid = bpf_get_current_uid_gid();
		event.flags = args->flags;
		bpf_get_current_comm(&event.comm, sizeof(event.comm));
		bpf_probe_read_user_str(&event.name, sizeof(event.name), args->name);
		bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	}
	bpf_map_delete_elem(&start, &thread);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
