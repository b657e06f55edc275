/* struct bpf_elf_map as iproute2 had it before v4.14 and as much code still has it: seven fields, no inner_id and inner_idx (28 bytes).
 * iproute2 (without libbpf) takes it and fills the missing fields with zero ("bytes fixed up in maps").
 * Expected: dialect bpf_elf_map, id 2, pinning global (2) for both; section 2/1 fills slot 1 of map `calls`. */
typedef unsigned int u32;
#define SEC(x) __attribute__((section(x), used))
struct bpf_elf_map { u32 type, size_key, size_value, max_elem, flags, id, pinning; };
struct bpf_elf_map SEC("maps") calls = { .type = 3, .size_key = 4, .size_value = 4, .max_elem = 8, .id = 2, .pinning = 1 };
struct bpf_elf_map SEC("maps") shared = { .type = 2, .size_key = 4, .size_value = 8, .max_elem = 1, .id = 5, .pinning = 2 };
static void *(*lookup)(void *, const void *) = (void *)1;
static long (*tail)(void *, void *, u32) = (void *)12;
SEC("2/1") int leaf(void *c) { u32 k = 0; u32 *v = lookup(&shared, &k); if (v) (*v)++; return 0; }
SEC("classifier") int entry(void *c) { tail(c, &calls, 1); return 0; }
char _license[] SEC("license") = "GPL";
