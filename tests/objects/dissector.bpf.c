/* A flow dissector that leaves all packets to the kernel. */
#include "common.h"

#ifdef VERSION /* of objects that do the same */
const volatile __u32 version = VERSION;
#endif

SEC("flow_dissector") int dissect(void *packet)
{
	return 129; /* BPF_FLOW_DISSECTOR_CONTINUE: as without a program (Linux 6.3) */
}
