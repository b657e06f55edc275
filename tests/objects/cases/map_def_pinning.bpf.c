/* struct bpf_map_def_pvt of aws-ebpf-sdk-go (AWS network policy agent): 28 bytes, the sixth field is `pinning`, 2 = PIN_GLOBAL_NS.
 * Expected: pinning global (or a note that field `pinning` = 2 is not obeyed), inner index none. */
typedef unsigned int u32;
#define SEC(x) __attribute__((section(x), used))
struct bpf_map_def_pvt { u32 type, key_size, value_size, max_entries, map_flags, pinning, inner_map_fd; };
struct bpf_map_def_pvt SEC("maps") ingress_map = { .type = 1, .key_size = 4, .value_size = 8, .max_entries = 16, .pinning = 2 };
SEC("tc") int p(void *ctx) { void *(*lookup)(void *, const void *) = (void *)1; u32 k = 0; lookup(&ingress_map, &k); return 0; }
char _license[] SEC("license") = "GPL";
