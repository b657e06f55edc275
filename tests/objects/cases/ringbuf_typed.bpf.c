/* A ring buffer (and a perf event array) that names the type of its records, as every bpf2go project does so that the Go type is made.
 * Expected (cilium/ebpf): both maps are made with key and value size 0 (4/4 for the perf array) and the programs load. */
typedef unsigned int u32;
#define SEC(x) __attribute__((section(x), used))
struct event { u32 pid; char comm[16]; };
struct { int (*type)[27]; int (*max_entries)[4096]; struct event *value; } events SEC(".maps");
SEC("xdp") int p(void *ctx)
{
	struct event *(*reserve)(void *, unsigned long, unsigned long) = (void *)131;
	void (*submit)(void *, unsigned long) = (void *)132;
	struct event *e = reserve(&events, sizeof *e, 0);
	if (e) { e->pid = 1; submit(e, 0); }
	return 2;
}
char _license[] SEC("license") = "GPL";
