/* Every kind of CO-RE relocation, of types that each Linux from 6.1 on has, and of some that none
 * has.
 */
#include "common.h"

#define CORE __attribute__((preserve_access_index))

enum field { BYTE_OFFSET, BYTE_SIZE, EXISTS, SIGNED, LSHIFT_U64, RSHIFT_U64 };
enum type_question { TYPE_EXISTS, TYPE_SIZE, TYPE_MATCHES };

#define FIELD(type, member, question) \
	__builtin_preserve_field_info(((type *)0)->member, question)
#define TYPE(type, question) __builtin_preserve_type_info(*(type *)0, question)
#define LOCAL_ID(type) __builtin_btf_type_id(*(type *)0, 0)
#define TARGET_ID(type) __builtin_btf_type_id(*(type *)0, 1)
#define HAS(type, name) __builtin_preserve_enum_value(*(type *)name, 0)
#define VALUE(type, name) __builtin_preserve_enum_value(*(type *)name, 1)

/* Kept on the stack, so that no compiler computes with what it does not know. */
#define KEEP(expression) (*(volatile __u64 *)&kept = (expression))

struct list_head {
	struct list_head *next, *prev;
} CORE;

struct task_struct {
	int pid;
	unsigned int flags;
	void *mm;
	char comm[16];
	struct list_head tasks;
} CORE;

/* Integers of other sizes than the kernel's, which loads are fitted to. */
struct task_struct___wide {
	__u64 flags;
	__u16 policy;
} CORE;

struct sk_buff {
	struct {
		struct {
			__u8 pkt_type : 3, cloned : 1;
		};
	};
	union {
		struct {
			struct sk_buff *next;
		};
	};
	__u32 len;
	char cb[48];
	__u32 mark;
} CORE;

struct net_device___new {
	int ifindex;
	int surely_not_there;
} CORE;

struct never_there {
	int first;
	enum bpf_map_type *second;
} CORE;

enum bpf_map_type { BPF_MAP_TYPE_HASH___1 = 77, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_NEVER };
enum never_there_enum { NEVER_THERE };
typedef __u32 u32;
typedef int (*never_there_callback)(int);

static struct task_struct *(*current_task)(void) = (void *)158;

SEC("xdp")
int fields(struct xdp_md *context)
{
	__u64 kept;

	KEEP(FIELD(struct task_struct, pid, BYTE_OFFSET));
	KEEP(FIELD(struct task_struct, pid, BYTE_SIZE));
	KEEP(FIELD(struct task_struct, pid, EXISTS));
	KEEP(FIELD(struct task_struct, pid, SIGNED));
	KEEP(FIELD(struct task_struct, flags, SIGNED));
	KEEP(FIELD(struct task_struct, flags, LSHIFT_U64));
	KEEP(FIELD(struct task_struct, flags, RSHIFT_U64));
	KEEP(FIELD(struct task_struct, comm, BYTE_SIZE));
	KEEP(FIELD(struct task_struct, comm[5], BYTE_OFFSET));
	KEEP(FIELD(struct task_struct, tasks.prev, BYTE_OFFSET));
	KEEP(FIELD(struct sk_buff, pkt_type, BYTE_OFFSET));
	KEEP(FIELD(struct sk_buff, pkt_type, BYTE_SIZE));
	KEEP(FIELD(struct sk_buff, pkt_type, LSHIFT_U64));
	KEEP(FIELD(struct sk_buff, pkt_type, RSHIFT_U64));
	KEEP(FIELD(struct sk_buff, pkt_type, SIGNED));
	KEEP(FIELD(struct sk_buff, cloned, LSHIFT_U64));
	KEEP(FIELD(struct sk_buff, cloned, RSHIFT_U64));
	KEEP(FIELD(struct sk_buff, next, BYTE_OFFSET));
	KEEP(FIELD(struct sk_buff, mark, BYTE_OFFSET));
	KEEP(FIELD(struct sk_buff, cb[40], BYTE_OFFSET));
	KEEP(FIELD(struct net_device___new, ifindex, BYTE_OFFSET));
	KEEP(FIELD(struct net_device___new, surely_not_there, EXISTS));
	KEEP(FIELD(struct never_there, first, EXISTS));
	return XDP_PASS;
}

SEC("xdp")
int types(struct xdp_md *context)
{
	__u64 kept;

	KEEP(LOCAL_ID(struct task_struct));
	KEEP(TARGET_ID(struct task_struct));
	KEEP(TARGET_ID(struct sk_buff));
	KEEP(TARGET_ID(struct never_there));
	KEEP(TYPE(struct task_struct, TYPE_EXISTS));
	KEEP(TYPE(struct task_struct, TYPE_SIZE));
	KEEP(TYPE(struct net_device___new, TYPE_EXISTS));
	KEEP(TYPE(struct never_there, TYPE_EXISTS));
	KEEP(TYPE(struct never_there, TYPE_SIZE));
	KEEP(TYPE(u32, TYPE_EXISTS));
	KEEP(TYPE(u32, TYPE_SIZE));
	KEEP(TYPE(never_there_callback, TYPE_EXISTS));
	KEEP(TYPE(enum bpf_map_type, TYPE_SIZE));
#if __clang_major__ >= 15
	KEEP(TYPE(struct list_head, TYPE_MATCHES));
	KEEP(TYPE(struct task_struct, TYPE_MATCHES));
	KEEP(TYPE(struct net_device___new, TYPE_MATCHES));
	KEEP(TYPE(enum bpf_map_type, TYPE_MATCHES));
	KEEP(TYPE(u32, TYPE_MATCHES));
#endif
	return XDP_PASS;
}

#if __clang_major__ >= 15
enum perf_callchain_context { PERF_CONTEXT_KERNEL = 1ULL << 40, PERF_CONTEXT_NEVER };
#endif

SEC("xdp")
int enumerators(struct xdp_md *context)
{
	__u64 kept;

	KEEP(HAS(enum bpf_map_type, BPF_MAP_TYPE_ARRAY));
	KEEP(HAS(enum bpf_map_type, BPF_MAP_TYPE_NEVER));
	KEEP(HAS(enum never_there_enum, NEVER_THERE));
	KEEP(VALUE(enum bpf_map_type, BPF_MAP_TYPE_ARRAY));
	KEEP(VALUE(enum bpf_map_type, BPF_MAP_TYPE_HASH___1));
#if __clang_major__ >= 15
	KEEP(VALUE(enum perf_callchain_context, PERF_CONTEXT_KERNEL));
	KEEP(HAS(enum perf_callchain_context, PERF_CONTEXT_NEVER));
#endif
	return XDP_PASS;
}

/* Loads of fields, and the ones that the kernel lacks where no program gets to. */
SEC("xdp")
int loads(struct xdp_md *context)
{
	struct task_struct *task = current_task();
	struct task_struct___wide *wide = (void *)task;
	struct never_there *never = (void *)task;
	__u64 kept;

	KEEP(task->flags);
	KEEP((__u64)task->mm);
	KEEP(task->comm[3]);
	KEEP((__u64)task->tasks.next->prev);
	KEEP(wide->flags);
	KEEP(wide->policy);
	if (FIELD(struct never_there, first, EXISTS))
		KEEP(never->first);
	if (HAS(enum bpf_map_type, BPF_MAP_TYPE_NEVER))
		KEEP(VALUE(enum bpf_map_type, BPF_MAP_TYPE_NEVER));
	return task->pid ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
