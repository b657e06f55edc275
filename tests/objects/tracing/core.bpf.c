// Reads of the kernel's structures, and questions about its types.
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct task_struct___old {
	volatile long state;
} __attribute__((preserve_access_index));
struct no_such_type___here {
	int member;
} __attribute__((preserve_access_index));
enum no_such_enum___here { NO_SUCH_VALUE };

struct result {
	u64 tgid, parent, inode, state, flags, sizes, offset, exists, ids, prime, kind;
	char comm[16];
	char parent_comm[16];
	char file[32];
};
struct result result = {};

SEC("raw_tp/sched_process_exit")
int core(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct___old *old = (void *)task;

	result.tgid = BPF_CORE_READ(task, tgid);
	result.parent = BPF_CORE_READ(task, real_parent, tgid);
	result.inode = BPF_CORE_READ(task, mm, exe_file, f_inode, i_ino);
	BPF_CORE_READ_INTO(&result.comm, task, comm);
	BPF_CORE_READ_STR_INTO(&result.parent_comm, task, real_parent, comm);
	bpf_probe_read_kernel_str(
		result.file, sizeof(result.file),
		BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name));
	result.state = bpf_core_field_exists(task->__state) ? BPF_CORE_READ(task, __state)
							    : BPF_CORE_READ(old, state);
	result.flags = BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
	result.sizes = bpf_core_field_size(task->comm) + bpf_core_type_size(struct pid_namespace);
	result.offset = bpf_core_field_offset(struct task_struct, tgid);
	result.exists = bpf_core_type_exists(struct task_struct) |
			bpf_core_type_exists(struct no_such_type___here) << 1 |
			bpf_core_enum_value_exists(enum bpf_map_type, BPF_MAP_TYPE_HASH) << 2 |
			bpf_core_enum_value_exists(enum no_such_enum___here, NO_SUCH_VALUE) << 3 |
			bpf_core_field_exists(struct task_struct, tgid) << 4;
	result.kind = bpf_core_enum_value(enum bpf_map_type, BPF_MAP_TYPE_ARRAY);
	result.ids = bpf_core_type_id_kernel(struct task_struct);
	bpf_core_read(&result.prime, sizeof(int), &task->prio);
	return 0;
}

// Structures of the kernel with bit-fields, in memory of the program.
struct iphdr ip = { .version = 4, .ihl = 5, .tos = 0xff };
struct tcphdr tcp = { .doff = 9, .fin = 1, .source = 0xffff };

SEC("raw_tp/sched_process_exit")
int bits(void *ctx)
{
	return BPF_CORE_READ_BITFIELD(&ip, version) * 1000 + BPF_CORE_READ_BITFIELD(&ip, ihl) * 100 +
	       BPF_CORE_READ_BITFIELD(&tcp, doff) * 10 + BPF_CORE_READ_BITFIELD(&tcp, fin);
}

#ifndef NO_WRITES // of bit-fields: not in the oldest headers of libbpf
SEC("raw_tp/sched_process_exit")
int write_bits(void *ctx)
{
	BPF_CORE_WRITE_BITFIELD(&ip, version, 6);
	BPF_CORE_WRITE_BITFIELD(&tcp, doff, 0xf3);
	BPF_CORE_WRITE_BITFIELD(&tcp, fin, 0);
	return 0;
}
#endif

char LICENSE[] SEC("license") = "GPL";
