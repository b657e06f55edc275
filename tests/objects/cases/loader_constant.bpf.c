/* A 64-bit load of a symbol that the object does not define: the loader is to put a number there before loading.
 * cloudflare/rakelimit (LIMIT), DataDog/ebpf-manager (ConstantEditor), cilium/ebpf (asm_relocation) do so.
 * Expected (cilium/ebpf): read; refused at load unless the constant is given (here: bpfpin load --set LIMIT=5 would be the place). */
#define SEC(x) __attribute__((section(x), used))
SEC("xdp") int p(void *ctx)
{
	unsigned long long limit;
	asm volatile("%0 = LIMIT ll" : "=r"(limit));
	return limit > 3 ? 2 : 1;
}
char _license[] SEC("license") = "GPL";
