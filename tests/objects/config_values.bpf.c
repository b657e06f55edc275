/* Values of the kernel's configuration in all their forms, copied to where a test can read them. */
#include "common.h"

#define __kconfig __attribute__((section(".kconfig")))

enum libbpf_tristate { TRI_NO, TRI_YES, TRI_MODULE };

extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool LINUX_HAS_BPF_COOKIE __kconfig;
extern _Bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;
extern _Bool CONFIG_BPF_SYSCALL __kconfig;
extern char CONFIG_BPF_JIT __kconfig;
extern enum libbpf_tristate CONFIG_NET __kconfig;
extern short CONFIG_HZ __kconfig;
extern __u64 CONFIG_PHYSICAL_START __kconfig;
extern const char CONFIG_DEFAULT_HOSTNAME[8] __kconfig;
extern int CONFIG_NEVER_THERE __kconfig __weak;
extern char CONFIG_NEVER_NAMED[4] __kconfig __weak;

struct {
	__u64 physical_start;
	__u32 version, tristate, absent;
	__u16 hz;
	__u8 cookie, wrapper, syscall, jit;
	char host[8], unnamed[4];
} seen;

SEC("xdp")
int copies_values(struct xdp_md *context)
{
	seen.physical_start = CONFIG_PHYSICAL_START;
	seen.version = LINUX_KERNEL_VERSION;
	seen.tristate = CONFIG_NET;
	seen.absent = CONFIG_NEVER_THERE;
	seen.hz = CONFIG_HZ;
	seen.cookie = LINUX_HAS_BPF_COOKIE;
	seen.wrapper = LINUX_HAS_SYSCALL_WRAPPER;
	seen.syscall = CONFIG_BPF_SYSCALL;
	seen.jit = CONFIG_BPF_JIT;
	for (int i = 0; i < 8; i++)
		seen.host[i] = CONFIG_DEFAULT_HOSTNAME[i];
	for (int i = 0; i < 4; i++)
		seen.unnamed[i] = CONFIG_NEVER_NAMED[i];
	return CONFIG_HZ > 50 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
