/* Expected: as for fentry/… : "not permitted … this kernel, or a policy on this host, allows no programs of type tracing", exit 3. */
#define SEC(x) __attribute__((section(x), used))
SEC("iter/bpf_map_elem") int p(unsigned long long *ctx) { return 0; }
char _license[] SEC("license") = "GPL";
