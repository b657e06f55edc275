/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sends an event for every IPv4 packet to user space, through a ring buffer. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u64 time_ns;
	__be32 saddr;
	__u16 length;
	__u8 protocol;
	__u8 time_to_live;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

/* Puts the struct into the object's BTF, so that readers can find it by name. */
const struct event *unused_event;

SEC("xdp")
int tell_packets(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *data_end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = data + sizeof(*ethernet);
	struct event *event;

	if ((void *)(ip + 1) > data_end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return XDP_PASS;
	event->time_ns = bpf_ktime_get_ns();
	event->saddr = ip->saddr;
	event->length = bpf_ntohs(ip->tot_len);
	event->protocol = ip->protocol;
	event->time_to_live = ip->ttl;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
