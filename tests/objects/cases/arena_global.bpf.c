/* A variable that lives in a BPF arena (section .addr_space.1), as libbpf >= 1.5 loads it into the object's arena map.
 * Expected: read; loads on Linux >= 6.9 as the arena map with the variable at its start (libbpf 1.8 reads and loads it). */
typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(x) __attribute__((section(x), used))
#define ARENA __attribute__((address_space(1)))
#ifndef TYPE
#define TYPE 33
#endif
struct { int (*type)[TYPE]; int (*map_flags)[1 << 10]; int (*max_entries)[4]; } arena SEC(".maps");
u64 ARENA hits = 7;
SEC("syscall") int count(void *ctx)
{
	void *a = &arena;
	asm volatile("" : "+r"(a));  /* the program must refer to the arena */
	hits += 1;
	return 0;
}
char _license[] SEC("license") = "GPL";
