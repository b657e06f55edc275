/* What the test objects need of the kernel's and libbpf's headers, and no more. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __noinline __attribute__((noinline))
#define __always_inline inline __attribute__((always_inline))
#define __weak __attribute__((weak))

/* Fields of a map in section .maps: numbers are the lengths of arrays that are pointed to. */
#define __uint(name, number) int(*name)[number]
#define __type(name, kind) kind *name

enum { HASH = 1, ARRAY = 2, PROG_ARRAY = 3, PERCPU_ARRAY = 6, ARRAY_OF_MAPS = 12 };
enum { XDP_ABORTED, XDP_DROP, XDP_PASS };

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value,
				   __u64 flags) = (void *)2;
static long (*bpf_for_each_map_elem)(void *map, void *callback, void *context,
				     __u64 flags) = (void *)164;
static long (*bpf_loop)(__u32 count, void *callback, void *context, __u64 flags) = (void *)181;
static long (*bpf_trace_printk)(const char *format, __u32 size, ...) = (void *)6;
