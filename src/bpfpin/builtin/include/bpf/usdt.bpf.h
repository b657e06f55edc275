/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Arguments of user-space probes (USDT): BPF_USDT, bpf_usdt_arg(), bpf_usdt_arg_cnt(),
 * bpf_usdt_cookie().
 *
 * A note in the traced binary says where each argument is at each place of a probe: a constant, a
 * register, or memory at a register. The loader translates each note to a struct __bpf_usdt_spec and
 * writes it to the map __bpf_usdt_specs under a number of its choice. At run time the program gets
 * this number as its cookie (bpf_get_attach_cookie(), Linux 5.15), or, where the loader set
 * LINUX_HAS_BPF_COOKIE to 0, from the map __bpf_usdt_ip_to_spec_id by the address of the probe.
 *
 * Names of maps, layout and meaning of the specs are those of libbpf, so that either loader can fill
 * them. Include <linux/bpf.h> or <vmlinux.h> first.
 */
#ifndef __USDT_BPF_H__
#define __USDT_BPF_H__

#include "bpf_helpers.h"
#include "bpf_tracing.h"

/* Define these before to have room for more probes. */
#ifndef BPF_USDT_MAX_SPEC_CNT
#define BPF_USDT_MAX_SPEC_CNT 256
#endif
#ifndef BPF_USDT_MAX_IP_CNT
#define BPF_USDT_MAX_IP_CNT (4 * BPF_USDT_MAX_SPEC_CNT)
#endif
#ifndef BPF_USDT_MAX_ARG_CNT
#define BPF_USDT_MAX_ARG_CNT 12
#endif

enum __bpf_usdt_arg_type {
	BPF_USDT_ARG_CONST, /* val_off is the value */
	BPF_USDT_ARG_REG, /* the value is in the register at reg_off in struct pt_regs */
	BPF_USDT_ARG_REG_DEREF, /* it is in memory at that register + val_off */
	BPF_USDT_ARG_SIB, /* at that register + (register at idx_reg_off << scale_bitshift) + val_off */
};

struct __bpf_usdt_arg_spec {
	__u64 val_off;
	__u32 arg_type : 8;
	__u32 idx_reg_off : 12;
	__u32 scale_bitshift : 4;
	__u32 : 8;
	short reg_off;
	_Bool arg_signed;
	/* 64 less the bits of the argument: it is shifted up and down again. */
	char arg_bitshift;
};

struct __bpf_usdt_spec {
	struct __bpf_usdt_arg_spec args[BPF_USDT_MAX_ARG_CNT];
	__u64 usdt_cookie; /* what the user gave when attaching */
	short arg_cnt;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BPF_USDT_MAX_SPEC_CNT);
	__type(key, int);
	__type(value, struct __bpf_usdt_spec);
} __bpf_usdt_specs SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BPF_USDT_MAX_IP_CNT);
	__type(key, long);
	__type(value, __u32);
} __bpf_usdt_ip_to_spec_id SEC(".maps") __weak;

extern const _Bool LINUX_HAS_BPF_COOKIE __kconfig;

/* Numbers of <errno.h>, which vmlinux.h does not have. */
#define ___BPF_USDT_ENOENT 2
#define ___BPF_USDT_ESRCH 3
#define ___BPF_USDT_EINVAL 22

static __always_inline struct __bpf_usdt_spec *___bpf_usdt_spec(struct pt_regs *ctx)
{
	int number;

	if (LINUX_HAS_BPF_COOKIE) {
		number = bpf_get_attach_cookie(ctx);
	} else {
		long place = PT_REGS_IP(ctx);
		__u32 *known = bpf_map_lookup_elem(&__bpf_usdt_ip_to_spec_id, &place);

		if (!known)
			return NULL;
		number = *known;
	}
	return bpf_map_lookup_elem(&__bpf_usdt_specs, &number);
}

/* The number of arguments; -ESRCH if the loader wrote no spec for the probe. */
__weak __hidden int bpf_usdt_arg_cnt(struct pt_regs *ctx)
{
	struct __bpf_usdt_spec *spec = ___bpf_usdt_spec(ctx);

	return spec ? spec->arg_cnt : -___BPF_USDT_ESRCH;
}

static __always_inline unsigned long ___bpf_usdt_register(struct pt_regs *ctx, int offset)
{
	unsigned long value = 0;

	/* By a helper: the offset is not a constant, as the verifier wants it for a context. */
	bpf_probe_read_kernel(&value, sizeof(value), (const char *)ctx + offset);
	return value;
}

/* Write argument arg_num, counted from 0, to *res: -ENOENT if there is none, -ESRCH as above. */
__weak __hidden int bpf_usdt_arg(struct pt_regs *ctx, __u64 arg_num, long *res)
{
	struct __bpf_usdt_spec *spec = ___bpf_usdt_spec(ctx);
	struct __bpf_usdt_arg_spec *arg;
	unsigned long value;
	int error;

	*res = 0;
	if (!spec)
		return -___BPF_USDT_ESRCH;
	if (arg_num >= BPF_USDT_MAX_ARG_CNT)
		return -___BPF_USDT_ENOENT;
	/* The verifier has to see both limits, which clang would merge. */
	barrier_var(arg_num);
	if (spec->arg_cnt < 0 || arg_num >= (__u64)spec->arg_cnt)
		return -___BPF_USDT_ENOENT;

	arg = &spec->args[arg_num];
	switch (arg->arg_type) {
	case BPF_USDT_ARG_CONST:
		value = arg->val_off;
		break;
	case BPF_USDT_ARG_REG:
		value = ___bpf_usdt_register(ctx, arg->reg_off);
		break;
	case BPF_USDT_ARG_REG_DEREF:
	case BPF_USDT_ARG_SIB:
		value = ___bpf_usdt_register(ctx, arg->reg_off) + arg->val_off;
		if (arg->arg_type == BPF_USDT_ARG_SIB)
			value += ___bpf_usdt_register(ctx, arg->idx_reg_off)
				 << arg->scale_bitshift;
		error = bpf_probe_read_user(&value, sizeof(value), (const void *)value);
		if (error)
			return error;
		break;
	default:
		return -___BPF_USDT_EINVAL;
	}

	value <<= arg->arg_bitshift;
	*res = arg->arg_signed ? (long)value >> arg->arg_bitshift : (long)(value >> arg->arg_bitshift);
	return 0;
}

/* The bytes of argument arg_num; -ENOENT if there is none, -ESRCH as above. */
__weak __hidden int bpf_usdt_arg_size(struct pt_regs *ctx, __u64 arg_num)
{
	struct __bpf_usdt_spec *spec = ___bpf_usdt_spec(ctx);

	if (!spec)
		return -___BPF_USDT_ESRCH;
	if (arg_num >= BPF_USDT_MAX_ARG_CNT)
		return -___BPF_USDT_ENOENT;
	barrier_var(arg_num);
	if (spec->arg_cnt < 0 || arg_num >= (__u64)spec->arg_cnt)
		return -___BPF_USDT_ENOENT;
	/* Without a division of signed numbers, which BPF does not have. */
	return (64U - (unsigned char)spec->args[arg_num].arg_bitshift) >> 3;
}

/* The number that the user gave when attaching; 0 if the loader wrote no spec. */
__weak __hidden long bpf_usdt_cookie(struct pt_regs *ctx)
{
	struct __bpf_usdt_spec *spec = ___bpf_usdt_spec(ctx);

	return spec ? spec->usdt_cookie : 0;
}

/* SEC("usdt/…") int BPF_USDT(name, int first, void *second) { … }: see BPF_KPROBE. */
#define ___bpf_usdt_value(number)                                                            \
	({                                                                                   \
		long ___value;                                                               \
		bpf_usdt_arg(ctx, number - 1, &___value);                                    \
		(void *)___value;                                                            \
	})
#define BPF_USDT(name, args...) \
	___bpf_program(name, struct pt_regs *ctx, ___bpf_list(___bpf_usdt_value, ##args), ##args)

#endif
