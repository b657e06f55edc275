/* A program that throws, and what its exception callback may be and may not be. */
#include "common.h"

#ifndef CALLBACK
#define CALLBACK "caught"
#endif
#ifdef HIDDEN
#define VISIBILITY __attribute__((visibility("hidden")))
#else
#define VISIBILITY
#endif

extern void bpf_throw(__u64 cookie) __attribute__((section(".ksyms")));

VISIBILITY __noinline int caught(__u64 cookie)
{
	return cookie + 35;
}

__noinline int other(__u64 cookie)
{
	return 1;
}

static __noinline int deeper(void *context)
{
	bpf_throw(7);
	return 0;
}

SEC("tc")
__attribute__((btf_decl_tag("exception_callback:" CALLBACK)))
#ifdef SECOND
__attribute__((btf_decl_tag("exception_callback:" SECOND)))
#endif
int throws(void *context)
{
	return deeper(context);
}

SEC("tc") int throws_without_callback(void *context)
{
	return deeper(context);
}

char _license[] SEC("license") = "GPL";
