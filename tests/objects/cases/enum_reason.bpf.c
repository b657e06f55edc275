/* -DV=0: enum reason { NONE, DROP };  -DV=1: one more enumerator at the end (the usual change when a reason is added).
 * V=2: an enumerator -1 (compile with clang 14 and with clang >= 15: same source, BTF signs it only from 15 on) */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#if V==0
enum reason { R_NONE, R_DROP };
#elif V==1
enum reason { R_NONE, R_DROP, R_RATE };
#else
enum reason { R_UNKNOWN = -1, R_NONE, R_DROP };
#endif
struct val { __u64 packets; enum reason last; };
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct val);} m SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, enum reason); __type(value, __u64);} by_reason SEC(".maps");
SEC("xdp") int reasons(struct xdp_md *c) { __u32 k = 0; struct val *v = bpf_map_lookup_elem(&m, &k); if (v) { v->packets++; v->last = R_DROP; } enum reason r = R_DROP; __u64 one = 1; bpf_map_update_elem(&by_reason, &r, &one, 0); return XDP_PASS; }
char LICENSE[] SEC("license") = "GPL";
