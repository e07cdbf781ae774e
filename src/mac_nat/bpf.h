/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs need of the kernel, declared here, so that they compile
 * without its headers. Layouts and numbers: include/uapi/linux/bpf.h. Nothing
 * that came after Linux 5.15.
 *
 * With VMBR_NATIVE the same program is a plain C library: the test that makes
 * it says what the helpers do (tests/mac_nat/native.h).
 */
#ifndef VMBR_BPF_H
#define VMBR_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed long long __s64;

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* A verdict: TCX_NEXT of tcx, TC_ACT_UNSPEC of clsact. "Not mine." */
#define NEXT (-1)
/* TC_ACT_SHOT */
#define DROP 2

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_F_NO_PREALLOC 1

#define BPF_ANY 0
#define BPF_NOEXIST 1

#define BPF_F_INGRESS 1
#define BPF_F_MARK_MANGLED_0 (1 << 5)

#ifdef VMBR_NATIVE
#include "native.h"
#else

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len,
				   __u64 flags) = (void *)9;
static long (*bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
				   __u64 flags) = (void *)11;
static long (*bpf_clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)13;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const struct __sk_buff *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static __s64 (*bpf_csum_diff)(const void *from, __u32 from_size, const void *to, __u32 to_size,
			      __u32 seed) = (void *)28;
static long (*bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static __u64 (*bpf_jiffies64)(void) = (void *)118;
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;

#define MAP(name, kind, flags, key_type, value_type, entries)                                              \
	struct {                                                                                           \
		int(*type)[kind];                                                                          \
		int(*map_flags)[flags];                                                                    \
		key_type *key;                                                                             \
		value_type *value;                                                                         \
		int(*max_entries)[entries];                                                                \
	} name SEC(".maps")

/*
 * Frames lie as they come: the kernel lets a program read and write numbers at
 * any place of them, where the machine can.
 */
static __always_inline __u16 get16(const void *p) { return *(const __u16 *)p; }
static __always_inline __u32 get32(const void *p) { return *(const __u32 *)p; }
static __always_inline __u64 get64(const void *p) { return *(const __u64 *)p; }
static __always_inline void put16(void *p, __u16 v) { *(__u16 *)p = v; }
static __always_inline void put32(void *p, __u32 v) { *(__u32 *)p = v; }

#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "vmbr is built for little-endian machines"
#endif
#define be16(x) ((__u16)__builtin_bswap16(x))
#define be32(x) ((__u32)__builtin_bswap32(x))

static __always_inline __u8 *start_of(const struct __sk_buff *skb) { return (__u8 *)(long)skb->data; }
static __always_inline __u8 *end_of(const struct __sk_buff *skb) { return (__u8 *)(long)skb->data_end; }

#endif
