/* Maps of addresses, ports and prefixes by the usual types, in many forms. */
#include "common.h"

typedef __u16 __be16;
typedef __u32 __be32;
typedef __u8 mac_t[6];

struct in_addr {
	__be32 s_addr;
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

struct ethaddr {
	__u8 octet[6];
};

struct lpm4 {
	__u32 prefixlen;
	__u8 data[4];
};

struct lpm4_number {
	__u32 prefixlen;
	__be32 addr;
};

struct lpm6 {
	__u32 prefixlen;
	struct in6_addr addr;
};

struct lpm_device {
	__u32 prefixlen;
	__u32 ifindex;
};

enum { PERCPU_HASH = 5, LPM_TRIE = 11, NO_PREALLOC = 1 };

#define MAP(name, kind, key_type, value_type, flags) \
	struct {                                     \
		__uint(type, kind);                  \
		__uint(max_entries, 8);              \
		__uint(map_flags, flags);            \
		__type(key, key_type);               \
		__type(value, value_type);           \
	} name SEC(".maps")

MAP(ports, HASH, __be32, __be16, 0);
MAP(hosts, HASH, __be16, __be32, 0);
MAP(v6, HASH, struct in6_addr, struct in_addr, 0);
MAP(macs, HASH, mac_t, struct ethaddr, 0);
MAP(cpu_hosts, PERCPU_HASH, __be32, __be32, 0);
MAP(routes, LPM_TRIE, struct lpm4, __u32, NO_PREALLOC);
MAP(numbers, LPM_TRIE, struct lpm4_number, __be32, NO_PREALLOC);
MAP(routes6, LPM_TRIE, struct lpm6, __u64, NO_PREALLOC);
MAP(devices, LPM_TRIE, struct lpm_device, __u64, NO_PREALLOC);

#define USE(map) bpf_map_lookup_elem(&map, &key)

SEC("xdp")
int use_all(struct xdp_md *context)
{
	struct {
		__u64 a, b, c;
	} key = {};

	USE(ports);
	USE(hosts);
	USE(v6);
	USE(macs);
	USE(cpu_hosts);
	USE(routes);
	USE(numbers);
	USE(routes6);
	USE(devices);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
