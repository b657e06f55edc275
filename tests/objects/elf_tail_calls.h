/*
 * Programs that iproute2 puts into a program array by the names of their sections, ID/KEY. The file
 * that includes this says where the one in front stands (FRONT), and what it and those behind it
 * answer (NOT_TAKEN, FIRST, THIRD).
 */
#include "elf_map.h"

static long (*bpf_tail_call)(void *context, void *array, __u32 index) = (void *)12;

struct bpf_elf_map SEC("maps") chosen = {
	.type = ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u32),
	.max_elem = 1,
};

struct bpf_elf_map SEC("maps") jumps = {
	.type = PROG_ARRAY,
	.size_key = sizeof(__u32),
	.size_value = sizeof(__u32),
	.max_elem = 4,
	.id = 7,
};

/* Jumps to the program that `chosen` names. */
SEC(FRONT)
int front(void *context)
{
	__u32 zero = 0;
	__u32 *index = bpf_map_lookup_elem(&chosen, &zero);

	if (index)
		bpf_tail_call(context, &jumps, *index);
	return NOT_TAKEN;
}

SEC("7/0")
int first(void *context)
{
	return FIRST;
}

SEC("0x7/2")
int third(void *context)
{
	return THIRD;
}

/* Jumps on. */
SEC("7/3")
int fourth(void *context)
{
	bpf_tail_call(context, &jumps, 0);
	return NOT_TAKEN;
}

char _license[] SEC("license") = "GPL";
