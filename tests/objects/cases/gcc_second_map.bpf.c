/* Two maps and two variables. GNU as writes the place of the symbol into the instruction as well (imm) beside the relocation to the symbol.
 * Expected (libbpf): a map is found by the symbol alone, whatever the instruction says. */
typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(x) __attribute__((section(x), used))
struct { int (*type)[2]; int (*max_entries)[1]; u32 *key; u64 *value; } one SEC(".maps");
struct { int (*type)[2]; int (*max_entries)[2]; u32 *key; u64 *value; } two SEC(".maps");
#ifdef VARS
u64 a = 1, b = 2;
#endif
SEC("xdp") int p(void *ctx)
{
	void *(*lookup)(void *, const void *) = (void *)1;
	u32 k = 0;
	u64 *v = lookup(&two, &k);
	if (v) *v += 1;
#ifdef VARS
	b += 1;
#endif
	lookup(&one, &k);
	return 2;
}
char _license[] SEC("license") = "GPL";
