/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A gate with settings: while `closed` is set, it drops packets larger than `largest` bytes. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

const volatile __u32 largest = 1514; /* .rodata: fixed when the program is loaded */
volatile __u8 closed = 1;	     /* .data: may change while it runs */
__u64 dropped;			     /* .bss */

SEC("xdp")
int gate(struct xdp_md *ctx)
{
	__u64 bytes = ctx->data_end - ctx->data;

	if (!closed || bytes <= largest)
		return XDP_PASS;
	__sync_fetch_and_add(&dropped, 1);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
