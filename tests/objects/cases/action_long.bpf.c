/* The switchable program of the XDP workshop, lesson 3 (pinning): the verdict stands in an array of one `long`, the program reads its low
 * four bytes; beside it a per-CPU array of five {packets, bytes}.
 * Expected: `action` shows and switches the verdict (a little-endian number of 8 bytes); `stats` shows the map of five entries, as `action` is a verdict. */
typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(x) __attribute__((section(x), used))
struct bpf_map_def { u32 type, key_size, value_size, max_entries, map_flags; };
struct counters { u64 packets, bytes; };
struct bpf_map_def SEC("maps") action = { .type = 2, .key_size = 4, .value_size = sizeof(long), .max_entries = 1 };
struct bpf_map_def SEC("maps") action_counters = { .type = 6, .key_size = 4, .value_size = sizeof(struct counters), .max_entries = 5 };
struct ctx { u32 data, data_end; };
SEC("stats") int p(struct ctx *c)
{
	void *(*lookup)(void *, const void *) = (void *)1;
	u32 zero = 0, *wanted = lookup(&action, &zero), verdict = wanted ? *wanted : 0;
	struct counters *n = lookup(&action_counters, &verdict);
	if (!n) return 0;
	n->packets++;
	n->bytes += c->data_end - c->data;
	return verdict;
}
char _license[] SEC("license") = "GPL";
