/* Programs at functions of the kernel, and one that replaces a function of another program: what
 * they see is counted by program. The system call is one that nobody else makes.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#if defined(__TARGET_ARCH_arm64)
#define CALL "__arm64_sys_sched_getparam"
#define CALL_NUMBER 121
#else
#define CALL "__x64_sys_sched_getparam"
#define CALL_NUMBER 143
#endif

#ifndef STEP /* what one event counts: versions differ in it */
#define STEP 1
#endif

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

#ifndef REFUSED /* the answer of the programs that decide */
#define REFUSED 0
#endif

enum { ENTRY, RETURN, ARGUMENT, KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline int count(__u32 kind)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &kind);

	if (counter)
		__sync_fetch_and_add(counter, STEP);
	return 0;
}

static __always_inline void keep(__u64 argument)
{
	__u32 kind = ARGUMENT;
	__u64 *kept = bpf_map_lookup_elem(&seen, &kind);

	if (kept)
		*kept = argument;
}

SEC("?kprobe/" CALL) int on_kprobe(void *ctx)
{
	return count(ENTRY);
}

SEC("?kretprobe/" CALL) int on_kretprobe(void *ctx)
{
	return count(RETURN);
}

SEC("?ksyscall/sched_getparam") int BPF_KSYSCALL(on_ksyscall, int pid)
{
	keep(pid);
	return count(ENTRY);
}

SEC("?kretsyscall/sched_getparam") int BPF_KRETPROBE(on_kretsyscall, int result)
{
	keep(result);
	return count(RETURN);
}

SEC("?kprobe.multi/*_sys_sched_getpara?") int on_multi(void *ctx)
{
	return count(ENTRY);
}

SEC("?kretprobe.multi/*_sys_sched_getpara?") int on_return_multi(void *ctx)
{
	return count(RETURN);
}

/* It runs at the entry, and, since it answers 0 there, at the return. */
SEC("?kprobe.session/*_sys_sched_getpara?") int on_session(void *ctx)
{
	return count(ENTRY);
}

SEC("?tp_btf/sys_enter") int BPF_PROG(on_tp_btf, void *regs, long number)
{
	return number == CALL_NUMBER ? count(ENTRY) : 0;
}

SEC("?fentry/" CALL) int on_fentry(void *ctx)
{
	return count(ENTRY);
}

SEC("?fexit/" CALL) int on_fexit(void *ctx)
{
	return count(RETURN);
}

/* BPF_PROG_TEST_RUN calls this function, at which every kernel lets programs sleep. */
SEC("?fentry.s/bpf_fentry_test1") int on_fentry_sleepable(void *ctx)
{
	return count(ENTRY);
}

SEC("?fexit.s/bpf_fentry_test1") int on_fexit_sleepable(void *ctx)
{
	return count(RETURN);
}

SEC("?fmod_ret.s/bpf_fentry_test1") int on_fmod_ret_sleepable(void *ctx)
{
	return count(ENTRY);
}

SEC("?kprobe/" CALL) int on_override(struct pt_regs *ctx)
{
	__u32 kind = ARGUMENT;
	__u64 *kept = bpf_map_lookup_elem(&seen, &kind);

	count(ENTRY);
	if (kept && *kept)
		bpf_override_return(ctx, *kept);
	return 0;
}

/* Of the functions that sched_getparam() calls, this one may be modified. */
SEC("?fmod_ret/security_task_getscheduler") int on_fmod_ret(void *ctx)
{
	count(ENTRY);
	return REFUSED;
}

SEC("?lsm/task_getscheduler") int on_lsm(void *ctx)
{
	count(ENTRY);
	return REFUSED;
}

SEC("?lsm.s/task_setscheduler") int on_lsm_sleepable(void *ctx)
{
	count(ENTRY);
	return REFUSED;
}

SEC("?lsm_cgroup/socket_bind") int on_lsm_cgroup(void *ctx)
{
	count(ENTRY);
	return 1;
}

/* Sections that name no function. */
SEC("?kprobe") int anywhere(void *ctx)
{
	return count(ENTRY);
}

SEC("?fentry") int at_entry(void *ctx)
{
	return count(ENTRY);
}

SEC("?freplace") int replacement(struct xdp_md *ctx)
{
	count(ENTRY);
	return 100 + STEP;
}

/* The program whose function is replaced. */
__attribute__((noinline)) int chosen(struct xdp_md *ctx)
{
	volatile int answer = XDP_PASS;

	return answer;
}

SEC("?xdp") int replaced(struct xdp_md *ctx)
{
	return chosen(ctx);
}

char _license[] SEC("license") = "GPL";
