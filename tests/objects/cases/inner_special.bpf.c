/* A map of maps, filled in the object file, whose inner map's value has a bpf_list_head: what it contains stands in a declaration tag of the BTF.
 * Expected (libbpf): the template of the outer map is made with the object's BTF as the inner map is, the entry fits, the program loads. */
typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(x) __attribute__((section(x), used))
struct bpf_spin_lock { u32 val; };
struct bpf_list_head { u64 a, b; };
struct bpf_list_node { u64 a, b, c; };
struct item { u64 data; struct bpf_list_node node; };
struct value { struct bpf_spin_lock lock; u32 n; struct bpf_list_head head __attribute__((btf_decl_tag("contains:item:node"))); };
struct item *keep;  /* so that the BTF has struct item */
struct inner { int (*type)[2]; int (*max_entries)[1]; u32 *key; struct value *value; } one SEC(".maps");
struct { int (*type)[12]; int (*max_entries)[1]; int (*key_size)[4]; int (*value_size)[4]; struct inner *values[]; } outer SEC(".maps") = { .values = { &one } };
SEC("tc") int p(void *ctx)
{
	void *(*lookup)(void *, const void *) = (void *)1;
	u32 k = 0;
	void *in = lookup(&outer, &k);
	if (!in) return 0;
	struct value *v = lookup(in, &k);
	if (v) v->n++;
	return 0;
}
char _license[] SEC("license") = "GPL";
