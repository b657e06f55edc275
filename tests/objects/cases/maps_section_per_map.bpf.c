/* struct bpf_map_def in a section of its own, maps/NAME: the convention of iovisor/gobpf, DataDog/ebpf-manager and ebpf-for-windows.
 * Expected (cilium/ebpf reads it: every section whose name starts with "maps"): two maps of dialect bpf_map_def, loads. */
typedef unsigned int u32;
#define SEC(x) __attribute__((section(x), used))
struct bpf_map_def { u32 type, key_size, value_size, max_entries, map_flags; };
struct bpf_map_def SEC("maps/counter") counter = { .type = 2, .key_size = 4, .value_size = 8, .max_entries = 1 };
struct bpf_map_def SEC("maps/other") other = { .type = 1, .key_size = 4, .value_size = 8, .max_entries = 16 };
SEC("xdp") int p(void *ctx)
{
	void *(*lookup)(void *, const void *) = (void *)1;
	u32 k = 0;
	unsigned long long *v = lookup(&counter, &k);
	if (v) *v += 1;
	lookup(&other, &k);
	return 2;
}
char _license[] SEC("license") = "GPL";
