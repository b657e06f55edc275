/* A call of a function that is weak, and nowhere in the kernel, without asking for it first. */
#include "common.h"

extern int never_callable(int number) __attribute__((section(".ksyms"))) __weak;

SEC("xdp")
int calls_blindly(struct xdp_md *context)
{
	return never_callable(1);
}

char _license[] SEC("license") = "GPL";
