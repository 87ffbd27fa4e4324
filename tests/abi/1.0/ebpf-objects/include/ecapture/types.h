/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Integer types under the names that BPF code uses. Written here so that a module needs clang and nothing else.
 */
#ifndef ECAP_TYPES_H
#define ECAP_TYPES_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;

#endif
