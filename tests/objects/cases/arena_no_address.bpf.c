/* A BPF arena without map_extra (the user-space address is left to the loader), as most arena objects have it.
 * Expected (libbpf >= 1.5 maps the arena into memory before it loads the programs, so that the address is set): loads. */
typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(x) __attribute__((section(x), used))
#define ARENA __attribute__((address_space(1)))
struct { int (*type)[33]; int (*map_flags)[1 << 10]; int (*max_entries)[4]; } arena SEC(".maps");
extern void ARENA *bpf_arena_alloc_pages(void *map, void ARENA *addr, u32 pages, int node, u64 flags) SEC(".ksyms");
SEC("syscall") int take(void *ctx)
{
	u64 ARENA *page = bpf_arena_alloc_pages(&arena, 0, 1, -1, 0);
	if (!page) return 1;
	page[0] = 5;
	return 0;
}
char _license[] SEC("license") = "GPL";
