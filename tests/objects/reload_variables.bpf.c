/* A next version of reload_old with one more variable, so that .bss has another form. */
#include "reload.h"

__u64 bytes_seen;

SEC("xdp")
int count_port(struct xdp_md *context)
{
	if (!source_port(context))
		return XDP_PASS;
	__sync_fetch_and_add(&bytes_seen, context->data_end - context->data);
	return counted(context);
}

char _license[] SEC("license") = "GPL";
