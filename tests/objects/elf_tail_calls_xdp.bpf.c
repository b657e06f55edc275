/* Tail calls in iproute2's way, for XDP. */
#define FRONT "xdp"
#define NOT_TAKEN XDP_PASS
#define FIRST XDP_DROP
#define THIRD XDP_ABORTED
#include "elf_tail_calls.h"
