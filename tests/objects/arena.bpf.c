/* An arena: memory that programs and user space share (Linux 6.9). */
#include "common.h"

enum { ARENA = 33, MMAPABLE = 1 << 10 };

struct {
	__uint(type, ARENA);
	__uint(map_flags, MMAPABLE);
	__uint(max_entries, 4);
} pages SEC(".maps");

char _license[] SEC("license") = "GPL";
