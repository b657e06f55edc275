/* What two units that are linked by `bpftool gen object` share. */
#pragma once
#include "common.h"

struct total {
	__u64 packets;
};

extern int step;
int weight(__u32 number);
