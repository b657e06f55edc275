/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Passes every packet. Some drivers need an XDP program at both ends of a redirect. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
