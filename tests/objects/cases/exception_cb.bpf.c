/* bpf_throw() with a callback named by the declaration tag "exception_callback:caught" (bpf_experimental.h's __exception_cb).
 * Expected (libbpf >= 1.3): `caught` is loaded with the program and its result is the program's: test_run returns 42. */
typedef unsigned long long u64;
#define SEC(x) __attribute__((section(x), used))
extern void bpf_throw(u64 cookie) SEC(".ksyms");
__attribute__((noinline)) int caught(u64 cookie) { return 42; }
SEC("tc") __attribute__((btf_decl_tag("exception_callback:caught"))) int p(void *ctx) { bpf_throw(7); return 0; }
char _license[] SEC("license") = "GPL";
