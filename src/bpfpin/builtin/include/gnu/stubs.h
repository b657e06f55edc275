/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* glibc's header of this name lists the functions that a platform lacks, one file a platform, and
 * a compiler for BPF asks for the file of 32-bit x86, which most machines do not have. A BPF
 * program calls none of these functions. */
