/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Frames, as the programs see them. */
#ifndef VMBR_FRAME_H
#define VMBR_FRAME_H

#include "ipv4.h"
#include "ipv6.h"

/* On a frame that air_out has seen to: the uplink's programs let it pass. */
#define HANDLED 0x766d6272

/*
 * On a frame that air_out has sent back into the bridge, to another guest. It
 * does not come to the air port again: what would, would go round for ever.
 */
#define RETURNED 0x766d6273

#define ETH_ALEN 6
#define ETH_SOURCE 6
#define ETH_TYPE 12
#define ETH_HLEN 14
/* Up to where the addresses of IPv6 are, which are further than IPv4's. */
#define READABLE IPV6_PAYLOAD

#define TYPE_ARP be16(0x0806)
#define TYPE_IPV4 be16(0x0800)
#define TYPE_IPV6 be16(0x86dd)

/* Makes the headers readable in place; what is shorter than them stays so. */
static __always_inline void pull(struct __sk_buff *skb)
{
	if (unlikely(start_of(skb) + READABLE > end_of(skb)))
		bpf_skb_pull_data(skb, skb->len < READABLE ? skb->len : READABLE);
}

static __always_inline int write_mac(struct __sk_buff *skb, __u32 at, mac_t mac)
{
	return bpf_skb_store_bytes(skb, at, &mac, ETH_ALEN, 0);
}

#endif
