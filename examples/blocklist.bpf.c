/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Drop IPv4 packets from the prefixes of a list, which user space owns. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct prefix {
	__u32 prefixlen;
	unsigned char data[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
} blocked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

SEC("xdp")
int blocklist(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data;
	unsigned char *end = (void *)(long)ctx->data_end;
	struct prefix address = { .prefixlen = 32 };
	__u32 zero = 0;
	__u64 *count;

	if (data + 14 + 20 > end || data[12] != 8 || data[13] != 0)
		return XDP_PASS;
	__builtin_memcpy(address.data, data + 14 + 12, 4);
	if (!bpf_map_lookup_elem(&blocked, &address))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&dropped, &zero);
	if (count)
		*count += 1;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
