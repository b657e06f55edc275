// Functions of the kernel and of programs: kprobes, system calls, fentry, LSM, user probes.
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#ifndef BPF_UPROBE // the oldest headers of libbpf
#define BPF_UPROBE BPF_KPROBE
#define BPF_URETPROBE BPF_KRETPROBE
#endif

struct event {
	u64 arguments[6];
	char text[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(unlink_enter, int directory, struct filename *name)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->arguments[0] = directory;
	bpf_probe_read_kernel_str(event->text, sizeof(event->text), BPF_CORE_READ(name, name));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("kretprobe/do_unlinkat")
int BPF_KRETPROBE(unlink_leave, long result)
{
	bpf_printk("unlink: %ld", result);
	return 0;
}

SEC("ksyscall/kill")
int BPF_KSYSCALL(kill_enter, pid_t pid, int signal)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->arguments[0] = pid;
	event->arguments[1] = signal;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#ifndef FIVE_ARGUMENTS // as many as the oldest headers of libbpf allow
SEC("ksyscall/mmap")
int BPF_KSYSCALL(mmap_enter, unsigned long at, unsigned long length, unsigned long protection,
		 unsigned long flags, unsigned long fd, unsigned long offset)
{
	bpf_printk("%lx %lx %lx %lx %lx %lx", at, length, protection, flags, fd, offset);
	return 0;
}
#endif

SEC("fentry/vfs_unlink")
int BPF_PROG(vfs_unlink_enter, struct mnt_idmap *map, struct inode *directory,
	     struct dentry *entry)
{
	bpf_printk("%lu", BPF_CORE_READ(entry, d_inode, i_ino) + directory->i_ino);
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(file_open, struct file *file, int result)
{
	return result;
}

SEC("raw_tp/sched_process_exec")
int BPF_PROG(exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *binary)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->arguments[0] = BPF_CORE_READ(task, real_parent, tgid);
	event->arguments[1] = old_pid;
	bpf_probe_read_kernel_str(event->text, sizeof(event->text),
				  BPF_CORE_READ(binary, filename));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("uprobe//bin/bash:readline")
int BPF_UPROBE(readline_enter, const char *prompt)
{
	char text[16];

	bpf_probe_read_user_str(text, sizeof(text), prompt);
	bpf_printk("%s %lx %lx %lx", text, PT_REGS_SP(ctx), PT_REGS_FP(ctx), PT_REGS_IP(ctx));
	return 0;
}

SEC("uretprobe//bin/bash:readline")
int BPF_URETPROBE(readline_leave, const void *result)
{
	unsigned long where = 0;

	BPF_KPROBE_READ_RET_IP(where, ctx);
	bpf_printk("%p %lx", result, where + PT_REGS_RC(ctx));
	return 0;
}

SEC("kprobe/six")
int six(struct pt_regs *ctx)
{
	bpf_printk("%lx %lx %lx %lx %lx %lx", PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx),
		   PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx), PT_REGS_PARM5(ctx), 6);
	return PT_REGS_PARM2_CORE(ctx) + PT_REGS_IP_CORE(ctx) + PT_REGS_RC_CORE(ctx);
}

char LICENSE[] SEC("license") = "GPL";
