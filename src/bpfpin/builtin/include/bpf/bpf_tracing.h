/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Programs with named, typed arguments (BPF_PROG, BPF_KPROBE …), and the registers that arguments
 * are in (PT_REGS_PARM1 …) on x86-64 and arm64.
 *
 * Include <linux/bpf.h> or <vmlinux.h>, and <bpf/bpf_helpers.h> first. The machine is that of
 * __TARGET_ARCH_x86 or __TARGET_ARCH_arm64; bpfpin compile defines it. Names and behaviour are those
 * of libbpf's header of the same name; both have the same include guard.
 */
#ifndef __BPF_TRACING_H__
#define __BPF_TRACING_H__

#include "bpf_helpers.h"

/* --- Registers ------------------------------------------------------------------------------- */

/*
 * The registers as the kernel stores them, which is part of its interface for ptrace(2), so no
 * relocation is needed. Here as own structures: the members of pt_regs in <asm/ptrace.h> have other
 * names than those in vmlinux.h, and a header of x86 has no user_pt_regs of arm64.
 */
#if defined(__TARGET_ARCH_x86)

struct ___bpf_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax;
	unsigned long cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define ___bpf_reg_parm1 di
#define ___bpf_reg_parm2 si
#define ___bpf_reg_parm3 dx
#define ___bpf_reg_parm4 cx
#define ___bpf_reg_parm5 r8
#define ___bpf_reg_parm6 r9
/* The instruction `syscall` overwrites rcx. */
#define ___bpf_reg_parm1_syscall di
#define ___bpf_reg_parm4_syscall r10
#define ___bpf_reg_ret sp
#define ___bpf_reg_fp bp
#define ___bpf_reg_rc ax
#define ___bpf_reg_sp sp
#define ___bpf_reg_ip ip
#define ___bpf_machine(x) ((const struct ___bpf_regs *)(x))

#elif defined(__TARGET_ARCH_arm64)

struct ___bpf_regs {
	unsigned long long regs[31];
	unsigned long long sp;
	unsigned long long pc;
	unsigned long long pstate;
	unsigned long long orig_x0; /* of struct pt_regs, behind struct user_pt_regs */
};
#define ___bpf_reg_parm1 regs[0]
#define ___bpf_reg_parm2 regs[1]
#define ___bpf_reg_parm3 regs[2]
#define ___bpf_reg_parm4 regs[3]
#define ___bpf_reg_parm5 regs[4]
#define ___bpf_reg_parm6 regs[5]
#define ___bpf_reg_parm7 regs[6]
#define ___bpf_reg_parm8 regs[7]
/* The result of a system call overwrites x0. */
#define ___bpf_reg_parm1_syscall orig_x0
#define ___bpf_reg_parm4_syscall regs[3]
#define ___bpf_reg_ret regs[30]
#define ___bpf_reg_fp regs[29]
#define ___bpf_reg_rc regs[0]
#define ___bpf_reg_sp sp
#define ___bpf_reg_ip pc
#define ___bpf_machine(x) ((const struct ___bpf_regs *)(x))

#endif

#ifdef ___bpf_machine
/* Of a context, which a program may read directly. */
#define ___bpf_reg(x, which) ((unsigned long)___bpf_machine(x)->___bpf_reg_##which)
/* Of other memory, which a helper reads. */
#define ___bpf_reg_core(x, which)                                                            \
	({                                                                                   \
		unsigned long ___register;                                                   \
		bpf_probe_read_kernel(&___register, sizeof(___register),                     \
				      &___bpf_machine(x)->___bpf_reg_##which);               \
		___register;                                                                 \
	})
#else
#define ___bpf_reg(x, which)                                                                 \
	({                                                                                   \
		_Pragma("GCC error \"define __TARGET_ARCH_x86 or __TARGET_ARCH_arm64\"")     \
		0UL;                                                                         \
	})
#define ___bpf_reg_core(x, which) ___bpf_reg(x, which)
#endif
#define ___bpf_no_reg                                                                        \
	({                                                                                   \
		_Pragma("GCC error \"this machine has no register for the argument\"")       \
		0UL;                                                                         \
	})

#define PT_REGS_PARM1(x) ___bpf_reg(x, parm1)
#define PT_REGS_PARM2(x) ___bpf_reg(x, parm2)
#define PT_REGS_PARM3(x) ___bpf_reg(x, parm3)
#define PT_REGS_PARM4(x) ___bpf_reg(x, parm4)
#define PT_REGS_PARM5(x) ___bpf_reg(x, parm5)
#define PT_REGS_PARM6(x) ___bpf_reg(x, parm6)
#define PT_REGS_PARM1_CORE(x) ___bpf_reg_core(x, parm1)
#define PT_REGS_PARM2_CORE(x) ___bpf_reg_core(x, parm2)
#define PT_REGS_PARM3_CORE(x) ___bpf_reg_core(x, parm3)
#define PT_REGS_PARM4_CORE(x) ___bpf_reg_core(x, parm4)
#define PT_REGS_PARM5_CORE(x) ___bpf_reg_core(x, parm5)
#define PT_REGS_PARM6_CORE(x) ___bpf_reg_core(x, parm6)
#ifdef ___bpf_reg_parm7
#define PT_REGS_PARM7(x) ___bpf_reg(x, parm7)
#define PT_REGS_PARM8(x) ___bpf_reg(x, parm8)
#define PT_REGS_PARM7_CORE(x) ___bpf_reg_core(x, parm7)
#define PT_REGS_PARM8_CORE(x) ___bpf_reg_core(x, parm8)
#else
#define PT_REGS_PARM7(x) ___bpf_no_reg
#define PT_REGS_PARM8(x) ___bpf_no_reg
#define PT_REGS_PARM7_CORE(x) ___bpf_no_reg
#define PT_REGS_PARM8_CORE(x) ___bpf_no_reg
#endif

#define PT_REGS_RET(x) ___bpf_reg(x, ret)
#define PT_REGS_RET_CORE(x) ___bpf_reg_core(x, ret)
#define PT_REGS_FP(x) ___bpf_reg(x, fp)
#define PT_REGS_FP_CORE(x) ___bpf_reg_core(x, fp)
#define PT_REGS_RC(x) ___bpf_reg(x, rc)
#define PT_REGS_RC_CORE(x) ___bpf_reg_core(x, rc)
#define PT_REGS_SP(x) ___bpf_reg(x, sp)
#define PT_REGS_SP_CORE(x) ___bpf_reg_core(x, sp)
#define PT_REGS_IP(x) ___bpf_reg(x, ip)
#define PT_REGS_IP_CORE(x) ___bpf_reg_core(x, ip)

/* Arguments of a system call, in the registers at its entry. */
#define PT_REGS_PARM1_SYSCALL(x) ___bpf_reg(x, parm1_syscall)
#define PT_REGS_PARM1_CORE_SYSCALL(x) ___bpf_reg_core(x, parm1_syscall)
#define PT_REGS_PARM2_SYSCALL(x) ___bpf_reg(x, parm2)
#define PT_REGS_PARM2_CORE_SYSCALL(x) ___bpf_reg_core(x, parm2)
#define PT_REGS_PARM3_SYSCALL(x) ___bpf_reg(x, parm3)
#define PT_REGS_PARM3_CORE_SYSCALL(x) ___bpf_reg_core(x, parm3)
#define PT_REGS_PARM4_SYSCALL(x) ___bpf_reg(x, parm4_syscall)
#define PT_REGS_PARM4_CORE_SYSCALL(x) ___bpf_reg_core(x, parm4_syscall)
#define PT_REGS_PARM5_SYSCALL(x) ___bpf_reg(x, parm5)
#define PT_REGS_PARM5_CORE_SYSCALL(x) ___bpf_reg_core(x, parm5)
#define PT_REGS_PARM6_SYSCALL(x) ___bpf_reg(x, parm6)
#define PT_REGS_PARM6_CORE_SYSCALL(x) ___bpf_reg_core(x, parm6)
/* These registers, in a kprobe at a system call of a kernel with wrappers for system calls. */
#define PT_REGS_SYSCALL_REGS(ctx) ((struct pt_regs *)PT_REGS_PARM1(ctx))

/* The address that the traced function returns to. */
#if defined(__TARGET_ARCH_x86)
#define BPF_KPROBE_READ_RET_IP(out, ctx) \
	bpf_probe_read_kernel(&(out), sizeof(out), (const void *)PT_REGS_RET(ctx))
#define BPF_KRETPROBE_READ_RET_IP(out, ctx) \
	bpf_probe_read_kernel(&(out), sizeof(out), (const void *)(PT_REGS_FP(ctx) + sizeof(out)))
#else
#define BPF_KPROBE_READ_RET_IP(out, ctx) ((out) = PT_REGS_RET(ctx))
#define BPF_KRETPROBE_READ_RET_IP(out, ctx) ((out) = PT_REGS_RET(ctx))
#endif

/* --- Programs with named arguments ------------------------------------------------------------ */

/*
 * SEC("kprobe/do_unlinkat") int BPF_KPROBE(on_unlink, int dfd, struct filename *name) { … }
 *
 * defines the program on_unlink, which takes `ctx`, and calls an inlined function with the body,
 * whose arguments are `ctx` and those named here. ___bpf_list_N(get) is `, get(1), …, get(N)`.
 */
#define ___bpf_list_0(get)
#define ___bpf_list_1(get) , get(1)
#define ___bpf_list_2(get) ___bpf_list_1(get), get(2)
#define ___bpf_list_3(get) ___bpf_list_2(get), get(3)
#define ___bpf_list_4(get) ___bpf_list_3(get), get(4)
#define ___bpf_list_5(get) ___bpf_list_4(get), get(5)
#define ___bpf_list_6(get) ___bpf_list_5(get), get(6)
#define ___bpf_list_7(get) ___bpf_list_6(get), get(7)
#define ___bpf_list_8(get) ___bpf_list_7(get), get(8)
#define ___bpf_list_9(get) ___bpf_list_8(get), get(9)
#define ___bpf_list_10(get) ___bpf_list_9(get), get(10)
#define ___bpf_list_11(get) ___bpf_list_10(get), get(11)
#define ___bpf_list_12(get) ___bpf_list_11(get), get(12)
#define ___bpf_count(...) \
	___bpf_13th(_, ##__VA_ARGS__, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define ___bpf_list(get, ...) ___bpf_concat(___bpf_list_, ___bpf_count(__VA_ARGS__))(get)

/* The values are pointers or numbers, which the declared arguments say. */
#define ___bpf_program(name, context, values, arguments...)                                  \
	name(context);                                                                       \
	static __always_inline __typeof__(name(0)) ____##name(context, ##arguments);         \
	__typeof__(name(0)) name(context)                                                    \
	{                                                                                    \
		_Pragma("clang diagnostic push")                                             \
		_Pragma("clang diagnostic ignored \"-Wint-conversion\"")                     \
		return ____##name(ctx values);                                               \
		_Pragma("clang diagnostic pop")                                              \
	}                                                                                    \
	static __always_inline __typeof__(name(0)) ____##name(context, ##arguments)

/* fentry, fexit, fmod_ret, LSM, tp_btf, raw tracepoints, struct_ops: arguments are 64-bit slots. */
#define ___bpf_slot(number) (void *)ctx[number - 1]
#define BPF_PROG(name, args...) \
	___bpf_program(name, unsigned long long *ctx, ___bpf_list(___bpf_slot, ##args), ##args)

/* kprobe and uprobe: arguments are in registers. */
#define ___bpf_parm(number) (void *)PT_REGS_PARM##number(ctx)
#define BPF_KPROBE(name, args...) \
	___bpf_program(name, struct pt_regs *ctx, ___bpf_list(___bpf_parm, ##args), ##args)
#define BPF_UPROBE(name, args...) BPF_KPROBE(name, ##args)

/* kretprobe and uretprobe: at most one argument, the result. */
#define ___bpf_result(number) (void *)PT_REGS_RC(ctx)
#define BPF_KRETPROBE(name, args...) \
	___bpf_program(name, struct pt_regs *ctx, ___bpf_list(___bpf_result, ##args), ##args)
#define BPF_URETPROBE(name, args...) BPF_KRETPROBE(name, ##args)

/*
 * ksyscall: arguments of a system call. If the kernel has wrappers, the probed function has one
 * argument, the registers of the process. The loader sets the constant, and the other way is dead
 * code for the verifier.
 */
#define ___bpf_of_syscall(number)                                                            \
	(void *)(LINUX_HAS_SYSCALL_WRAPPER                                                   \
			 ? PT_REGS_PARM##number##_CORE_SYSCALL(PT_REGS_SYSCALL_REGS(ctx))    \
			 : PT_REGS_PARM##number##_SYSCALL(ctx))
#define BPF_KSYSCALL(name, args...)                                                          \
	name(struct pt_regs *ctx);                                                           \
	extern const _Bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;                              \
	__typeof__(name(0)) ___bpf_program(name, struct pt_regs *ctx,                        \
					   ___bpf_list(___bpf_of_syscall, ##args), ##args)
#define BPF_KPROBE_SYSCALL BPF_KSYSCALL

/*
 * As BPF_PROG, for functions with structures among their arguments; type and name are two arguments
 * of the macro: BPF_PROG2(name, struct pair, both, int, flags). A structure of more than 8 bytes
 * takes two slots, as the kernel passes it.
 */
#define ___bpf_slots(type) (sizeof(type) > 8 ? 2 : 1)
#define ___bpf_value(type, first)                                                            \
	({                                                                                   \
		union {                                                                      \
			unsigned long long slots[2];                                         \
			__typeof__(type) value;                                              \
		} ___argument = { .slots = { ctx[first] } };                                 \
		_Static_assert(sizeof(type) <= 16, "an argument takes at most 16 bytes");    \
		if (sizeof(type) > 8)                                                        \
			___argument.slots[1] = ctx[(first) + ___bpf_slots(type) - 1];        \
		___argument.value;                                                           \
	})
#define ___bpf_declared_0()
#define ___bpf_declared_1(type, name) , type name
#define ___bpf_declared_2(type, name, ...) , type name ___bpf_declared_1(__VA_ARGS__)
#define ___bpf_declared_3(type, name, ...) , type name ___bpf_declared_2(__VA_ARGS__)
#define ___bpf_declared_4(type, name, ...) , type name ___bpf_declared_3(__VA_ARGS__)
#define ___bpf_declared_5(type, name, ...) , type name ___bpf_declared_4(__VA_ARGS__)
#define ___bpf_declared_6(type, name, ...) , type name ___bpf_declared_5(__VA_ARGS__)
#define ___bpf_declared_7(type, name, ...) , type name ___bpf_declared_6(__VA_ARGS__)
#define ___bpf_declared_8(type, name, ...) , type name ___bpf_declared_7(__VA_ARGS__)
#define ___bpf_declared_9(type, name, ...) , type name ___bpf_declared_8(__VA_ARGS__)
#define ___bpf_declared_10(type, name, ...) , type name ___bpf_declared_9(__VA_ARGS__)
#define ___bpf_declared_11(type, name, ...) , type name ___bpf_declared_10(__VA_ARGS__)
#define ___bpf_declared_12(type, name, ...) , type name ___bpf_declared_11(__VA_ARGS__)
#define ___bpf_values_0(first)
#define ___bpf_values_1(first, type, name) , ___bpf_value(type, first)
#define ___bpf_values_2(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_1((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_3(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_2((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_4(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_3((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_5(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_4((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_6(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_5((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_7(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_6((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_8(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_7((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_9(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_8((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_10(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_9((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_11(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_10((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_values_12(first, type, name, ...) \
	, ___bpf_value(type, first) ___bpf_values_11((first) + ___bpf_slots(type), __VA_ARGS__)
#define ___bpf_25th(_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, \
		    _17, _18, _19, _20, _21, _22, _23, _24, chosen, ...) chosen
#define ___bpf_pairs(...)                                                                    \
	___bpf_25th(_, ##__VA_ARGS__, 12, odd, 11, odd, 10, odd, 9, odd, 8, odd, 7, odd, 6, odd, \
		    5, odd, 4, odd, 3, odd, 2, odd, 1, odd, 0)
#define ___bpf_declared(...) \
	___bpf_concat(___bpf_declared_, ___bpf_pairs(__VA_ARGS__))(__VA_ARGS__)
#define ___bpf_values(...) \
	___bpf_concat(___bpf_values_, ___bpf_pairs(__VA_ARGS__))(0, ##__VA_ARGS__)
#define BPF_PROG2(name, args...)                                                             \
	name(unsigned long long *ctx);                                                       \
	static __always_inline __typeof__(name(0))                                           \
		____##name(unsigned long long *ctx ___bpf_declared(args));                   \
	__typeof__(name(0)) name(unsigned long long *ctx)                                    \
	{                                                                                    \
		return ____##name(ctx ___bpf_values(args));                                  \
	}                                                                                    \
	static __always_inline __typeof__(name(0))                                           \
		____##name(unsigned long long *ctx ___bpf_declared(args))

#endif
