/* Programs that write: into the trace pipe of the host, and into streams of their own. */
#include "common.h"

#define __ksym __attribute__((section(".ksyms")))

extern int bpf_stream_vprintk_impl(int stream, const char *fmt__str, const void *args,
				   __u32 len__sz, void *aux__prog) __ksym __weak;
/* Its name in newer kernels, where the verifier adds the last argument by itself. */
extern int bpf_stream_vprintk(int stream, const char *fmt__str, const void *args,
			      __u32 len__sz) __ksym __weak;

static const char greeting[] = "speaks %d";
static const char line[] = "stream %d says %d\nunfinished";

SEC("syscall")
int speak(int *number)
{
	return bpf_trace_printk(greeting, sizeof(greeting), *number);
}

SEC("syscall")
int tell(int *number)
{
	__u64 out[] = {1, *number}, error[] = {2, *number};

	if (bpf_stream_vprintk_impl) {
		bpf_stream_vprintk_impl(1, line, out, sizeof(out), 0);
		return bpf_stream_vprintk_impl(2, line, error, sizeof(error), 0);
	}
	bpf_stream_vprintk(1, line, out, sizeof(out));
	return bpf_stream_vprintk(2, line, error, sizeof(error));
}

char _license[] SEC("license") = "GPL";
