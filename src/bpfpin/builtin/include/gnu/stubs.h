/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* glibc's header of this name lists the functions that a platform lacks, in one file per platform.
 * For BPF, the compiler includes the file for 32-bit x86, which most machines do not have. This
 * empty file replaces it, because a BPF program calls none of these functions. */
