/* A pinning value that libbpf has no name for: Cilium's datapath has CILIUM_PIN_REPLACE = 1 << 4 on its tail-call maps (bpf_lxc.o, bpf_host.o, bpf_xdp.o …).
 * Expected (cilium/ebpf): the object is read, maps and programs can be listed; the value is refused (or asked for) when it is loaded. */
typedef unsigned int u32;
#define SEC(x) __attribute__((section(x), used))
struct { int (*type)[3]; int (*max_entries)[8]; int (*key_size)[4]; int (*value_size)[4]; int (*pinning)[16]; } calls SEC(".maps");
SEC("xdp") int p(void *ctx) { long (*tail)(void *, void *, u32) = (void *)12; tail(ctx, &calls, 1); return 2; }
char _license[] SEC("license") = "GPL";
