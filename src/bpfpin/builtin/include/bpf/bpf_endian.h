/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Network byte order: bpf_htons() and its family, for variables and constants. */
#ifndef __BPF_ENDIAN__
#define __BPF_ENDIAN__

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define __bpf_network16(x) __builtin_bswap16(x)
#define __bpf_network32(x) __builtin_bswap32(x)
#define __bpf_network64(x) __builtin_bswap64(x)
#else
#define __bpf_network16(x) (x)
#define __bpf_network32(x) (x)
#define __bpf_network64(x) (x)
#endif

#define bpf_htons(x) __bpf_network16(x)
#define bpf_ntohs(x) __bpf_network16(x)
#define bpf_htonl(x) __bpf_network32(x)
#define bpf_ntohl(x) __bpf_network32(x)
#define bpf_cpu_to_be64(x) __bpf_network64(x)
#define bpf_be64_to_cpu(x) __bpf_network64(x)

#endif
