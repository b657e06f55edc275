/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Definitions that a BPF program in C needs besides the kernel's headers. Sources written for
 * libbpf's header of the same name compile with it; both have the same include guard.
 * Include <linux/bpf.h> (or a vmlinux.h) first, because the prototypes of the helpers use its types.
 */
#ifndef __BPF_HELPERS__
#define __BPF_HELPERS__

#include "bpf_helper_defs.h"

/* --- Sections and attributes ------------------------------------------------------------- */

/* Without the pragma, clang warns that "used" has no effect on an extern in a section. */
#define SEC(name)                                                   \
	_Pragma("clang diagnostic push")                            \
	_Pragma("clang diagnostic ignored \"-Wignored-attributes\"") \
	__attribute__((section(name), used))                        \
	_Pragma("clang diagnostic pop")

/* <linux/stddef.h> has a weaker definition. */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#ifndef __noinline
#define __noinline __attribute__((noinline))
#endif
#ifndef __weak
#define __weak __attribute__((weak))
#endif
#define __hidden __attribute__((visibility("hidden")))

#define __kconfig __attribute__((section(".kconfig")))
#define __ksym __attribute__((section(".ksyms")))
#define bpf_ksym_exists(symbol) (!!&(symbol))

#if __has_attribute(btf_type_tag)
#define __kptr __attribute__((btf_type_tag("kptr")))
#define __kptr_untrusted __attribute__((btf_type_tag("kptr_untrusted")))
#define __percpu_kptr __attribute__((btf_type_tag("percpu_kptr")))
#endif
#if __has_attribute(btf_decl_tag)
#define __arg_ctx __attribute__((btf_decl_tag("arg:ctx")))
#define __arg_nonnull __attribute__((btf_decl_tag("arg:nonnull")))
#define __arg_nullable __attribute__((btf_decl_tag("arg:nullable")))
#define __arg_trusted __attribute__((btf_decl_tag("arg:trusted")))
#endif

/* --- Maps ---------------------------------------------------------------------------------- */

#define ___bpf_paste(a, b) a##b
#define ___bpf_concat(a, b) ___bpf_paste(a, b)

/* Members of a map definition in SEC(".maps"). The loader reads their types, never a value. */
#define __uint(name, number) int(*name)[number]
#define __ulong(name, number) enum { ___bpf_concat(__map_ulong_, __COUNTER__) = number } name
#define __type(name, what) __typeof__(what) *name
#define __array(name, what) __typeof__(what) *name[]

enum libbpf_pin_type {
	LIBBPF_PIN_NONE = 0,
	LIBBPF_PIN_BY_NAME = 1,
};

enum libbpf_tristate {
	TRI_NO = 0,
	TRI_YES = 1,
	TRI_MODULE = 2,
};

/* The older map definition, in SEC("maps"). Define BPF_NO_MAP_DEF if your source has its own. */
#ifndef BPF_NO_MAP_DEF
struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};
#endif

/* Gives such a map the BTF types of its key and value. */
#define BPF_ANNOTATE_KV_PAIR(map, key_type, value_type)                                     \
	struct ____btf_map_##map {                                                          \
		key_type key;                                                               \
		value_type value;                                                           \
	};                                                                                  \
	struct ____btf_map_##map SEC(".maps." #map) ____btf_map_##map = {}

/* --- Definitions that sources without other headers expect -------------------------------- */

#ifndef NULL
#define NULL ((void *)0)
#endif
#ifndef KERNEL_VERSION
#define KERNEL_VERSION(major, minor, patch) \
	(((major) << 16) + ((minor) << 8) + ((patch) > 255 ? 255 : (patch)))
#endif
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#ifndef container_of
#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))
#endif

/* Make the optimiser forget what it knows about memory, or about one variable. */
#ifndef barrier
#define barrier() __asm__ volatile("" : : : "memory")
#endif
#ifndef barrier_var
#define barrier_var(variable) __asm__ volatile("" : "+r"(variable))
#endif

/* Does not compile if it can be reached, because the BPF back end has no trap instruction. */
#ifndef __bpf_unreachable
#define __bpf_unreachable() __builtin_trap()
#endif

/* A tail call with a constant map and slot, which the JIT compiles to a direct jump. */
#ifdef __bpf__
static __always_inline void bpf_tail_call_static(void *ctx, const void *map, const __u32 slot)
{
	if (!__builtin_constant_p(slot))
		__bpf_unreachable();
	__asm__ volatile("r1 = %0\n"
			 "r2 = %1\n"
			 "r3 = %2\n"
			 "call 12"
			 :
			 : "r"(ctx), "r"(map), "i"(slot)
			 : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
}
#endif

/* --- Printing ------------------------------------------------------------------------------ */

#ifdef BPF_NO_GLOBAL_DATA
#define ___bpf_format char
#else
#define ___bpf_format static const char
#endif

/* Puts the arguments into an array of 64-bit numbers; they may be pointers. */
#define ___bpf_with_arguments(call, ...)                                       \
	({                                                                     \
		_Pragma("clang diagnostic push")                               \
		_Pragma("clang diagnostic ignored \"-Wint-conversion\"")       \
		unsigned long long ___arguments[] = { __VA_ARGS__ };           \
		_Pragma("clang diagnostic pop")                                \
		call;                                                          \
	})

#define ___bpf_printk_few(format, ...)                                         \
	({                                                                     \
		___bpf_format ___text[] = format;                              \
		bpf_trace_printk(___text, sizeof(___text), ##__VA_ARGS__);     \
	})
#define ___bpf_printk_many(format, ...)                                        \
	({                                                                     \
		static const char ___text[] = format;                          \
		___bpf_with_arguments(bpf_trace_vprintk(___text, sizeof(___text), ___arguments, \
							sizeof(___arguments)),           \
				      __VA_ARGS__);                            \
	})
#define ___bpf_13th(_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, chosen, ...) chosen
#define ___bpf_few_or_many(...)                                                            \
	___bpf_13th(_, ##__VA_ARGS__, many, many, many, many, many, many, many, many, many, \
		    few, few, few, few)

/* Prints to the kernel's trace pipe: up to 3 arguments with the old helper, 12 with the new. */
#define bpf_printk(format, ...)                                                            \
	___bpf_concat(___bpf_printk_, ___bpf_few_or_many(__VA_ARGS__))(format, ##__VA_ARGS__)

#define BPF_SEQ_PRINTF(seq, format, ...)                                       \
	({                                                                     \
		static const char ___text[] = format;                          \
		___bpf_with_arguments(bpf_seq_printf(seq, ___text, sizeof(___text), ___arguments, \
						     sizeof(___arguments)),                \
				      __VA_ARGS__);                            \
	})
#define BPF_SNPRINTF(out, out_size, format, ...)                               \
	({                                                                     \
		static const char ___text[] = format;                          \
		___bpf_with_arguments(bpf_snprintf(out, out_size, ___text, ___arguments, \
						   sizeof(___arguments)),                \
				      __VA_ARGS__);                            \
	})

#endif
