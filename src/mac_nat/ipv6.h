/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* IPv6: the chain of headers, and neighbour discovery (RFC 4861). */
#ifndef VMBR_IPV6_H
#define VMBR_IPV6_H

#include "learn.h"

#define IPV6_NEXT 20	/* in the frame: next header, hop limit, addresses */
#define IPV6_LIMIT 21
#define IPV6_SOURCE 22
#define IPV6_DESTINATION 38
#define IPV6_PAYLOAD 54

#define DHCPV6_CLIENT 546

#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define AUTHENTICATION 51
#define ICMPV6 58
#define DESTINATION 60
#define MOBILITY 135
#define HIP 139
#define SHIM6 140

#define HEADERS_MOST 8
#define OPTIONS_MOST 32

#define ROUTER_SOLICITATION 133
#define ROUTER_ADVERTISEMENT 134
#define NEIGHBOUR_SOLICITATION 135
#define NEIGHBOUR_ADVERTISEMENT 136
#define REDIRECT 137

/* Where a neighbour discovery message tells a MAC; 0: nowhere. */
struct discovery {
	__u32 message;
	__u32 source; /* option 1 */
	__u32 target; /* option 2 */
	__u32 in_fragment;
	__u32 payload; /* where the chain ends; 0: at ICMPv6 */
	__u32 protocol; /* there */
};

/*
 * That of the frame under way: nothing else of ours runs on its processor
 * meanwhile. On the stack the verifier would follow each value that the walk
 * can give them, beyond the million steps that it goes.
 */
MAP(under_way, BPF_MAP_TYPE_PERCPU_ARRAY, 0, __u32, struct discovery, 1);

/*
 * Finds the ICMPv6 message behind extension headers, if there is one. Not 0
 * where the chain has no end.
 */
static __noinline int find_icmpv6(struct __sk_buff *skb, struct discovery *found)
{
	__u8 header[4] __attribute__((aligned(4)));
	__u32 at = IPV6_PAYLOAD;
	__u8 next;

	found->message = found->source = found->target = found->in_fragment = found->payload = 0;
	found->protocol = 0;
	if (bpf_skb_load_bytes(skb, IPV6_NEXT, &next, 1))
		return 1;
	for (int i = 0; i < HEADERS_MOST; i++) {
		if (next == ICMPV6) {
			found->message = at;
			found->payload = 0;
			return 0;
		}
		found->payload = at;
		if (next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != AUTHENTICATION &&
		    next != DESTINATION && next != MOBILITY && next != HIP && next != SHIM6) {
			found->protocol = next;
			return 0;
		}
		if (bpf_skb_load_bytes(skb, at, header, sizeof(header)))
			return 1;
		if (next == FRAGMENT) {
			/* A later part: what it is was in the first one. */
			if (header[2] || header[3] & 0xf8)
				return 0;
			found->in_fragment = 1;
			at += 8;
		} else if (next == AUTHENTICATION) {
			at += (header[1] + 2) * 4;
		} else {
			at += (header[1] + 1) * 8;
		}
		next = header[0];
	}
	return 1;
}

/* Not 0 where the options are not as they must be. */
static __noinline int read_options(struct __sk_buff *skb, struct discovery *found, __u32 at, __u32 end)
{
	__u8 option[2] __attribute__((aligned(2)));

	for (int i = 0; i < OPTIONS_MOST; i++) {
		if (at >= end)
			return at != end;
		if (bpf_skb_load_bytes(skb, at, option, sizeof(option)) || !option[1])
			return 1;
		if (option[0] == 1 || option[0] == 2) {
			__u32 *place = option[0] == 1 ? &found->source : &found->target;

			/* Of Ethernet, and told once. */
			if (option[1] != 1 || *place)
				return 1;
			*place = at;
		}
		at += option[1] * 8;
	}
	return 1;
}

/*
 * Looks a message of neighbour discovery through. What it claims is learned;
 * where it tells a MAC is put into `found`. Returns 0, also for what is no
 * such message, or DROP.
 */
static __noinline int discover(struct __sk_buff *skb, mac_t mac, struct discovery *found)
{
	__u8 ip[40] __attribute__((aligned(8)));
	__u8 head[24] __attribute__((aligned(8)));
	struct address target;
	__u32 end, options;
	int asks;

	if (find_icmpv6(skb, found))
		return drop(HEADERS);
	if (!found->message)
		return 0;
	/* The type alone, as other messages may be that short. */
	if (bpf_skb_load_bytes(skb, 14, ip, sizeof(ip)) || bpf_skb_load_bytes(skb, found->message, head, 2))
		return drop(HEADERS);
	if (head[0] < ROUTER_SOLICITATION || head[0] > REDIRECT) {
		found->message = 0;
		return 0;
	}
	end = IPV6_PAYLOAD + be16(get16(ip + 4));
	if (found->in_fragment || ip[7] != 255 || head[1] || end > skb->len)
		return drop(DISCOVERY);
	if (head[0] == NEIGHBOUR_SOLICITATION || head[0] == NEIGHBOUR_ADVERTISEMENT) {
		if (bpf_skb_load_bytes(skb, found->message, head, sizeof(head)))
			return drop(DISCOVERY);
		options = 24;
	} else {
		options = head[0] == ROUTER_SOLICITATION ? 8 : head[0] == ROUTER_ADVERTISEMENT ? 16 : 40;
	}
	if (read_options(skb, found, found->message + options, end))
		return drop(DISCOVERY);
	if (options != 24)
		return 0;
	/* A question from nobody is whether the address is free. */
	asks = head[0] == NEIGHBOUR_SOLICITATION;
	if (asks && get64(ip + 8) | get64(ip + 16))
		return 0;
	target = ipv6_address(head + 8);
	/* Addresses of IPv4 are kept as such. */
	if (!target.word[0])
		return drop(ADDRESS);
	return learn(&target, mac, skb->ingress_ifindex, asks);
}

/* Tells the uplink's MAC in an option, and mends the checksum. */
static __always_inline int tell(struct __sk_buff *skb, __u32 message, __u32 option, mac_t own)
{
	__u64 old, new;
	__s64 change;

	/* With its type and length an option is eight bytes, which divide by four. */
	if (bpf_skb_load_bytes(skb, option, &old, sizeof(old)))
		return -1;
	new = (old & 0xffff) | own << 16;
	change = bpf_csum_diff(&old, sizeof(old), &new, sizeof(new), 0);
	if (change < 0)
		return -1;
	/*
	 * Where the guest has left the sum to the hardware this does nothing,
	 * and that is right. The frame's sum as a whole does not change.
	 */
	if (bpf_l4_csum_replace(skb, message + 2, 0, change, 0))
		return -1;
	return bpf_skb_store_bytes(skb, option, &new, sizeof(new), 0);
}

#endif
