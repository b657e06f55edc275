/* A program that reads what no kernel has, and does not ask whether it is there. */
#include "common.h"

struct task_struct {
	int pid;
	int never_there;
} __attribute__((preserve_access_index));

static struct task_struct *(*current_task)(void) = (void *)158;

SEC("xdp")
int unguarded(struct xdp_md *context)
{
	struct task_struct *task = current_task();

	return task->pid ? task->never_there : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
