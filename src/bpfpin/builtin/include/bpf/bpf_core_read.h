/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * CO-RE: reads of the kernel's structures at the offsets of the running kernel, and questions about
 * its types. The compiler leaves a relocation for each; the loader fills in the answer.
 *
 * Include <vmlinux.h> (bpfpin compile --vmlinux), or structures of your own with
 * __attribute__((preserve_access_index)), and <bpf/bpf_helpers.h> first. Names and behaviour are
 * those of libbpf's header of the same name; both have the same include guard.
 */
#ifndef __BPF_CORE_READ_H__
#define __BPF_CORE_READ_H__

#include "bpf_helpers.h"

/* --- Questions to the kernel's types ------------------------------------------------------- */

/* The numbers are part of the compiler's interface. */
enum bpf_field_info_kind {
	BPF_FIELD_BYTE_OFFSET = 0,
	BPF_FIELD_BYTE_SIZE = 1,
	BPF_FIELD_EXISTS = 2,
	BPF_FIELD_SIGNED = 3,
	BPF_FIELD_LSHIFT_U64 = 4,
	BPF_FIELD_RSHIFT_U64 = 5,
};
enum bpf_type_id_kind {
	BPF_TYPE_ID_LOCAL = 0,
	BPF_TYPE_ID_TARGET = 1,
};
enum bpf_type_info_kind {
	BPF_TYPE_EXISTS = 0,
	BPF_TYPE_SIZE = 1,
	BPF_TYPE_MATCHES = 2,
};
enum bpf_enum_value_kind {
	BPF_ENUMVAL_EXISTS = 0,
	BPF_ENUMVAL_VALUE = 1,
};

/* A field is an expression, `task->pid`, or two arguments, `struct task_struct, pid`. */
#define ___bpf_field_1(expression) expression
#define ___bpf_field_2(type, field) ((__typeof__(type) *)0)->field
#define ___bpf_one_or_two(_1, _2, chosen, ...) chosen
#define ___bpf_field(...) \
	___bpf_one_or_two(__VA_ARGS__, ___bpf_field_2, ___bpf_field_1)(__VA_ARGS__)
#define ___bpf_of_field(kind, ...) \
	__builtin_preserve_field_info(___bpf_field(__VA_ARGS__), BPF_FIELD_##kind)

#define bpf_core_field_exists(field...) ___bpf_of_field(EXISTS, ##field)
#define bpf_core_field_size(field...) ___bpf_of_field(BYTE_SIZE, ##field)
#define bpf_core_field_offset(field...) ___bpf_of_field(BYTE_OFFSET, ##field)

/* The builtins take a value of the type, which is never read. */
#define ___bpf_a_value(type) (*(__typeof__(type) *)0)
#define bpf_core_type_id_local(type) \
	__builtin_btf_type_id(___bpf_a_value(type), BPF_TYPE_ID_LOCAL)
#define bpf_core_type_id_kernel(type) \
	__builtin_btf_type_id(___bpf_a_value(type), BPF_TYPE_ID_TARGET)
#define bpf_core_type_exists(type) \
	__builtin_preserve_type_info(___bpf_a_value(type), BPF_TYPE_EXISTS)
#define bpf_core_type_size(type) \
	__builtin_preserve_type_info(___bpf_a_value(type), BPF_TYPE_SIZE)
/* Needs clang 15. */
#define bpf_core_type_matches(type) \
	__builtin_preserve_type_info(___bpf_a_value(type), BPF_TYPE_MATCHES)
#define ___bpf_an_enumerator(type, value) (*(__typeof__(type) *)value)
#define bpf_core_enum_value_exists(type, value) \
	__builtin_preserve_enum_value(___bpf_an_enumerator(type, value), BPF_ENUMVAL_EXISTS)
#define bpf_core_enum_value(type, value) \
	__builtin_preserve_enum_value(___bpf_an_enumerator(type, value), BPF_ENUMVAL_VALUE)

/* A pointer as one to a structure of the kernel, whose members can then be read directly. */
#define bpf_core_cast(pointer, type)                                                         \
	({                                                                                   \
		extern void *bpf_rdonly_cast(const void *, __u32) __ksym __weak;             \
		(__typeof__(type) *)bpf_rdonly_cast((pointer), bpf_core_type_id_kernel(type)); \
	})

/* --- One read ------------------------------------------------------------------------------ */

#define ___bpf_relocated(source) ((const void *)__builtin_preserve_access_index(source))
#define bpf_core_read(out, size, source) \
	bpf_probe_read_kernel(out, size, ___bpf_relocated(source))
#define bpf_core_read_user(out, size, source) \
	bpf_probe_read_user(out, size, ___bpf_relocated(source))
#define bpf_core_read_str(out, size, source) \
	bpf_probe_read_kernel_str(out, size, ___bpf_relocated(source))
#define bpf_core_read_user_str(out, size, source) \
	bpf_probe_read_user_str(out, size, ___bpf_relocated(source))

/* --- Bit-fields ---------------------------------------------------------------------------- */

/*
 * The value is in the unit of `BYTE_SIZE` bytes at `BYTE_OFFSET`. Both shifts are those of a 64-bit
 * number: to the left until the field's first bit is the topmost, then to the right.
 */
#define ___bpf_unit(s, field) \
	((void *)(s) + __builtin_preserve_field_info((s)->field, BPF_FIELD_BYTE_OFFSET))
#define ___bpf_bits_of(s, field, unit)                                                       \
	({                                                                                   \
		unsigned long long ___bits = (unit)                                          \
			<< __builtin_preserve_field_info((s)->field, BPF_FIELD_LSHIFT_U64);  \
		unsigned int ___right =                                                      \
			__builtin_preserve_field_info((s)->field, BPF_FIELD_RSHIFT_U64);     \
		__builtin_preserve_field_info((s)->field, BPF_FIELD_SIGNED)                  \
			? (unsigned long long)((long long)___bits >> ___right)               \
			: ___bits >> ___right;                                               \
	})

/* Of memory that only a helper may read. */
#define BPF_CORE_READ_BITFIELD_PROBED(s, field)                                              \
	({                                                                                   \
		unsigned long long ___unit = 0;                                              \
		bpf_probe_read_kernel(                                                       \
			&___unit,                                                            \
			__builtin_preserve_field_info((s)->field, BPF_FIELD_BYTE_SIZE),      \
			___bpf_unit(s, field));                                              \
		___bpf_bits_of(s, field, ___unit);                                           \
	})

#define ___bpf_load_unit(place, size)                                                        \
	({                                                                                   \
		unsigned long long ___loaded = 0;                                            \
		switch (size) {                                                              \
		case 1:                                                                      \
			___loaded = *(const unsigned char *)(place);                         \
			break;                                                               \
		case 2:                                                                      \
			___loaded = *(const unsigned short *)(place);                        \
			break;                                                               \
		case 4:                                                                      \
			___loaded = *(const unsigned int *)(place);                          \
			break;                                                               \
		case 8:                                                                      \
			___loaded = *(const unsigned long long *)(place);                    \
			break;                                                               \
		}                                                                            \
		___loaded;                                                                   \
	})

/* Of memory that the program may read directly. */
#define BPF_CORE_READ_BITFIELD(s, field)                                                     \
	({                                                                                   \
		const void *___place = ___bpf_unit(s, field);                                \
		/* Otherwise clang may add the offset to each of the loads. */               \
		barrier_var(___place);                                                       \
		___bpf_bits_of(s, field,                                                     \
			       ___bpf_load_unit(___place, __builtin_preserve_field_info(     \
						(s)->field, BPF_FIELD_BYTE_SIZE)));          \
	})

#define BPF_CORE_WRITE_BITFIELD(s, field, value)                                             \
	({                                                                                   \
		void *___place = ___bpf_unit(s, field);                                      \
		unsigned int ___size =                                                       \
			__builtin_preserve_field_info((s)->field, BPF_FIELD_BYTE_SIZE);      \
		unsigned int ___left =                                                       \
			__builtin_preserve_field_info((s)->field, BPF_FIELD_LSHIFT_U64);     \
		unsigned int ___up =                                                         \
			__builtin_preserve_field_info((s)->field, BPF_FIELD_RSHIFT_U64);     \
		unsigned long long ___mask = (~0ULL << ___up) >> ___left;                    \
		unsigned long long ___new =                                                  \
			((unsigned long long)(value) << ___up) >> ___left;                   \
		barrier_var(___place);                                                       \
		___new |= ___bpf_load_unit(___place, ___size) & ~___mask;                    \
		switch (___size) {                                                           \
		case 1:                                                                      \
			*(unsigned char *)___place = ___new;                                 \
			break;                                                               \
		case 2:                                                                      \
			*(unsigned short *)___place = ___new;                                \
			break;                                                               \
		case 4:                                                                      \
			*(unsigned int *)___place = ___new;                                  \
			break;                                                               \
		case 8:                                                                      \
			*(unsigned long long *)___place = ___new;                            \
			break;                                                               \
		}                                                                            \
	})

/* --- Chains of pointers -------------------------------------------------------------------- */

/*
 * BPF_CORE_READ(task, mm, exe_file, f_inode, i_ino) stands for task->mm->exe_file->f_inode->i_ino,
 * with up to nine accessors; each of them may have dots (`f_path.dentry`). Each arrow but the first
 * is a read by a helper, which leaves zero behind where there is no memory.
 *
 * ___bpf_walk_N reads pointers until one accessor is left. The name of each pointer ends with N,
 * since all of them are visible in the innermost block. Of the type of `&*` the qualifiers of the
 * pointer itself are gone.
 */
#define ___bpf_walk_1(hop, last, out, from, field) last((void *)(out), sizeof(*(out)), &(from)->field)
#define ___bpf_hop(N, hop, from, field, rest)                                                \
	({                                                                                   \
		__typeof__(&*(from)->field) ___pointer_##N;                                  \
		hop(&___pointer_##N, sizeof(___pointer_##N), &(from)->field);                \
		rest;                                                                        \
	})
#define ___bpf_walk_2(hop, last, out, from, field, ...) \
	___bpf_hop(2, hop, from, field, ___bpf_walk_1(hop, last, out, ___pointer_2, __VA_ARGS__))
#define ___bpf_walk_3(hop, last, out, from, field, ...) \
	___bpf_hop(3, hop, from, field, ___bpf_walk_2(hop, last, out, ___pointer_3, __VA_ARGS__))
#define ___bpf_walk_4(hop, last, out, from, field, ...) \
	___bpf_hop(4, hop, from, field, ___bpf_walk_3(hop, last, out, ___pointer_4, __VA_ARGS__))
#define ___bpf_walk_5(hop, last, out, from, field, ...) \
	___bpf_hop(5, hop, from, field, ___bpf_walk_4(hop, last, out, ___pointer_5, __VA_ARGS__))
#define ___bpf_walk_6(hop, last, out, from, field, ...) \
	___bpf_hop(6, hop, from, field, ___bpf_walk_5(hop, last, out, ___pointer_6, __VA_ARGS__))
#define ___bpf_walk_7(hop, last, out, from, field, ...) \
	___bpf_hop(7, hop, from, field, ___bpf_walk_6(hop, last, out, ___pointer_7, __VA_ARGS__))
#define ___bpf_walk_8(hop, last, out, from, field, ...) \
	___bpf_hop(8, hop, from, field, ___bpf_walk_7(hop, last, out, ___pointer_8, __VA_ARGS__))
#define ___bpf_walk_9(hop, last, out, from, field, ...) \
	___bpf_hop(9, hop, from, field, ___bpf_walk_8(hop, last, out, ___pointer_9, __VA_ARGS__))
#define ___bpf_10th(_1, _2, _3, _4, _5, _6, _7, _8, _9, chosen, ...) chosen
#define ___bpf_accessors(...) ___bpf_10th(__VA_ARGS__, 9, 8, 7, 6, 5, 4, 3, 2, 1)
#define ___bpf_read_chain(hop, last, out, from, ...)                  \
	___bpf_concat(___bpf_walk_, ___bpf_accessors(__VA_ARGS__)) \
	(hop, last, out, from, __VA_ARGS__)

#define ___bpf_arrows_1(from, a) (from)->a
#define ___bpf_arrows_2(from, a, ...) ___bpf_arrows_1((from)->a, __VA_ARGS__)
#define ___bpf_arrows_3(from, a, ...) ___bpf_arrows_2((from)->a, __VA_ARGS__)
#define ___bpf_arrows_4(from, a, ...) ___bpf_arrows_3((from)->a, __VA_ARGS__)
#define ___bpf_arrows_5(from, a, ...) ___bpf_arrows_4((from)->a, __VA_ARGS__)
#define ___bpf_arrows_6(from, a, ...) ___bpf_arrows_5((from)->a, __VA_ARGS__)
#define ___bpf_arrows_7(from, a, ...) ___bpf_arrows_6((from)->a, __VA_ARGS__)
#define ___bpf_arrows_8(from, a, ...) ___bpf_arrows_7((from)->a, __VA_ARGS__)
#define ___bpf_arrows_9(from, a, ...) ___bpf_arrows_8((from)->a, __VA_ARGS__)
#define ___bpf_arrows(from, ...) \
	___bpf_concat(___bpf_arrows_, ___bpf_accessors(__VA_ARGS__))(from, __VA_ARGS__)
/* A result is written by a helper, so it cannot be const. */
#if defined(__clang_major__) && __clang_major__ >= 19
#define ___bpf_variable_type(...) __typeof_unqual__(__VA_ARGS__)
#else
#define ___bpf_variable_type(...) __typeof__(__VA_ARGS__)
#endif
#define ___bpf_value_of_chain(hop, last, from, ...)                                  \
	({                                                                           \
		___bpf_variable_type(___bpf_arrows((from), __VA_ARGS__)) ___value;   \
		___bpf_read_chain(hop, last, &___value, (from), __VA_ARGS__);        \
		___value;                                                            \
	})

/* The value at the end of the chain: a number, a pointer or a structure. */
#define BPF_CORE_READ(from, accessors...) \
	___bpf_value_of_chain(bpf_core_read, bpf_core_read, from, ##accessors)
/* The value is written to *out, which may be an array; the result is that of the last helper. */
#define BPF_CORE_READ_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_core_read, bpf_core_read, out, from, ##accessors)
/*
 * A text of at most sizeof(*out) bytes; the result is its length with the zero, or an error. The
 * last field is an array. If it is a pointer, read the text behind it by
 * bpf_probe_read_kernel_str(out, sizeof(out), BPF_CORE_READ(from, …)).
 */
#define BPF_CORE_READ_STR_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_core_read, bpf_core_read_str, out, from, ##accessors)

/* The same for structures of the kernel in the memory of a process. */
#define BPF_CORE_READ_USER(from, accessors...) \
	___bpf_value_of_chain(bpf_core_read_user, bpf_core_read_user, from, ##accessors)
#define BPF_CORE_READ_USER_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_core_read_user, bpf_core_read_user, out, from, ##accessors)
#define BPF_CORE_READ_USER_STR_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_core_read_user, bpf_core_read_user_str, out, from, ##accessors)

/* The same without relocations, for structures whose layout never changes. */
#define BPF_PROBE_READ(from, accessors...) \
	___bpf_value_of_chain(bpf_probe_read_kernel, bpf_probe_read_kernel, from, ##accessors)
#define BPF_PROBE_READ_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_probe_read_kernel, bpf_probe_read_kernel, out, from, ##accessors)
#define BPF_PROBE_READ_STR_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_probe_read_kernel, bpf_probe_read_kernel_str, out, from, ##accessors)
#define BPF_PROBE_READ_USER(from, accessors...) \
	___bpf_value_of_chain(bpf_probe_read_user, bpf_probe_read_user, from, ##accessors)
#define BPF_PROBE_READ_USER_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_probe_read_user, bpf_probe_read_user, out, from, ##accessors)
#define BPF_PROBE_READ_USER_STR_INTO(out, from, accessors...) \
	___bpf_read_chain(bpf_probe_read_user, bpf_probe_read_user_str, out, from, ##accessors)

#endif
