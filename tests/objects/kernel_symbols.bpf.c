/* What the kernel has by name: addresses and functions; some of them are nowhere. */
#include "common.h"

#define __ksym __attribute__((section(".ksyms")))
#define __core __attribute__((preserve_access_index))

struct xdp_buff {
	void *data;
	void *data_end;
} __core;

struct task_struct {
	int pid;
} __core;

extern const void _text __ksym;
extern const void never_there __ksym __weak;
extern const int never_counted __ksym __weak;

extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;
extern void *bpf_cast_to_kern_ctx(void *context) __ksym;
extern int never_callable(int number) __ksym __weak;
extern struct task_struct *bpf_task_from_pid(int pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;

struct {
	__u64 text, absent, uncounted;
	int length, called;
} seen;

SEC("xdp")
int asks_kernel(struct xdp_md *context)
{
	struct xdp_buff *buffer = bpf_cast_to_kern_ctx(context);

	seen.text = (__u64)&_text;
	seen.absent = (__u64)&never_there;
	seen.uncounted = (__u64)&never_counted;
	if (!bpf_rcu_read_lock || !bpf_rcu_read_unlock)
		return XDP_DROP;
	bpf_rcu_read_lock();
	seen.length = buffer->data_end - buffer->data;
	bpf_rcu_read_unlock();
	seen.called = never_callable ? never_callable(1) : -1;
	return XDP_PASS;
}

SEC("syscall")
int finds_task(int *pid)
{
	struct task_struct *task = bpf_task_from_pid(*pid);
	int found;

	if (!task)
		return 0;
	found = task->pid;
	bpf_task_release(task);
	return found;
}

char _license[] SEC("license") = "GPL";
