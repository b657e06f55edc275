/* A program of each kind that only stock kernels take; types, functions and a function to attach to
 * of modules, which a test loads: wireguard and nf_conntrack.
 */
#include "common.h"

#define CORE __attribute__((preserve_access_index))
#define OFFSET(type, member) __builtin_preserve_field_info(((type *)0)->member, 0)

struct wg_device {
	void *dev;
	unsigned short incoming_port;
} CORE;

/* Defined, whatever their members are: libbpf and bpfpin compare the kinds of types. */
struct nf_conn {
	unsigned long status;
};

struct bpf_sock_tuple {
	__u32 first;
};

struct bpf_ct_opts {
	int netns_id;
	int error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *context, struct bpf_sock_tuple *tuple,
					 __u32 tuple_size, struct bpf_ct_opts *opts,
					 __u32 opts_size) SEC(".ksyms");
extern void bpf_ct_release(struct nf_conn *connection) SEC(".ksyms");

SEC("xdp")
int port_offset(struct xdp_md *context)
{
	return OFFSET(struct wg_device, incoming_port);
}

/* The connection of TCP from 10.81.0.1, port 1000, to 10.81.0.2, port 2000: 1 if it is known, else
 * 100 and the error of the lookup.
 */
SEC("xdp")
int look_up(struct xdp_md *context)
{
	struct {
		__u32 saddr, daddr;
		__u16 sport, dport;
	} tuple = {0x0100510a, 0x0200510a, 0xe803, 0xd007};
	struct bpf_ct_opts opts = {.netns_id = -1, .l4proto = 6};
	struct nf_conn *connection;

	connection = bpf_xdp_ct_lookup(context, (void *)&tuple, sizeof(tuple), &opts, sizeof(opts));
	if (!connection)
		return 100 - opts.error;
	bpf_ct_release(connection);
	return 1;
}

SEC("fentry/nf_conntrack:nf_conntrack_in")
int entry_of_module(void *context)
{
	return 0;
}

SEC("fexit/nf_conntrack_in")
int exit_of_module(void *context)
{
	return 0;
}

SEC("fentry/do_nanosleep")
int entry(void *context)
{
	return 0;
}

SEC("lsm/file_open")
int guard(void *context)
{
	return 0;
}

SEC("kprobe/do_nanosleep")
int probe(void *context)
{
	return 0;
}

SEC("xdp")
int target(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("freplace/target")
int replacement(struct xdp_md *context)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
