/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The kernel's helpers as far as src/mac_nat/ uses them, for a plain program:
 * the same C, under the sanitizers. What they answer is what the kernel's do
 * (net/core/filter.c, kernel/bpf/hashtab.c); tests/mac_nat_frames.rs holds the
 * two against each other.
 */
#ifndef VMBR_NATIVE_H
#define VMBR_NATIVE_H

#include <string.h>

struct __sk_buff {
	__u32 len;
	__u32 mark;
	__u32 vlan_present;
	__u32 ingress_ifindex;
	unsigned long data;
	unsigned long data_end;
};

struct native_map {
	const char *name;
	int kind;
	unsigned key_size, value_size, most;
	struct native_entry *first;
};

#define MAP(name, kind, flags, key_type, value_type, entries)                                              \
	struct native_map name = { #name, kind, sizeof(key_type), sizeof(value_type), entries, 0 }

void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags);
long bpf_map_delete_elem(void *map, const void *key);
long bpf_skb_store_bytes(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len, __u64 flags);
long bpf_l4_csum_replace(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 flags);
long bpf_clone_redirect(struct __sk_buff *skb, __u32 ifindex, __u64 flags);
long bpf_redirect(__u32 ifindex, __u64 flags);
long bpf_skb_load_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 len);
__s64 bpf_csum_diff(const void *from, __u32 from_size, const void *to, __u32 to_size, __u32 seed);
long bpf_skb_pull_data(struct __sk_buff *skb, __u32 len);
__u64 bpf_jiffies64(void);
__u64 bpf_ktime_get_boot_ns(void);

#define NATIVE_GET_PUT(bits)                                                                               \
	static __always_inline __u##bits get##bits(const void *p)                                          \
	{                                                                                                  \
		__u##bits v;                                                                               \
		memcpy(&v, p, sizeof(v));                                                                  \
		return v;                                                                                  \
	}                                                                                                  \
	static __always_inline void put##bits(void *p, __u##bits v) { memcpy(p, &v, sizeof(v)); }
NATIVE_GET_PUT(16)
NATIVE_GET_PUT(32)
NATIVE_GET_PUT(64)

#endif
