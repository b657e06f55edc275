/* Expected (libbpf, bpftool, cilium/ebpf bind .rodata to each program with BPF_PROG_BIND_MAP): map_ids N, metadata: version = "1.2". */
typedef unsigned int u32;
#define SEC(x) __attribute__((section(x), used))
const char bpf_metadata_version[] SEC(".rodata") = "1.2";
SEC("xdp") int p(void *ctx) { return 2; }
char _license[] SEC("license") = "GPL";
