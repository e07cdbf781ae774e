/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What guests send: to the air, to the host, to each other. */
#ifndef VMBR_OUTWARD_H
#define VMBR_OUTWARD_H

#include "frame.h"

static __always_inline int to_host(struct __sk_buff *skb)
{
	skb->mark = HANDLED;
	return bpf_redirect(settings.uplink, BPF_F_INGRESS);
}

/*
 * To the uplink's MAC: the host's, or by an entry of a neighbour table from
 * when the two were apart, another guest's. That goes in at the sender's own
 * port, where the bridge judges it as any other of its frames.
 */
static __always_inline int inward(struct __sk_buff *skb, const struct address *to, mac_t from)
{
	struct guest *guest = whose(to);
	__u8 *p = start_of(skb);

	if (likely(!guest || guest->mac == from || guest->mac == settings.mac))
		return to_host(skb);
	/* Who sends beyond the link means the host, as a router. */
	if (where_is(to) != ON_LINK || p + ETH_HLEN > end_of(skb))
		return to_host(skb);
	put_mac(p, guest->mac);
	skb->mark = RETURNED;
	return bpf_redirect(skb->ingress_ifindex, BPF_F_INGRESS);
}

/*
 * To the air, as the uplink. A guest with a virtio header may have left a
 * checksum to be written later, behind all of this, at any place that it has
 * said. ARP and ICMPv6, which are `checked`, have none that is left: the kernel
 * does not tell a program of it, but bpf_l4_csum_replace leaves such a frame as
 * it is, and any other gets a source that is overwritten at once. Of TCP and
 * UDP it is usual, and where it is written is not known.
 */
static __always_inline int outward(struct __sk_buff *skb, int checked)
{
	__u8 *p = start_of(skb);
	__u16 source;

	if (p + ETH_HLEN > end_of(skb))
		return DROP;
	if (checked) {
		source = get16(p + ETH_SOURCE);
		if (bpf_l4_csum_replace(skb, ETH_SOURCE, 0, 1, 0))
			return DROP;
		p = start_of(skb);
		if (p + ETH_HLEN > end_of(skb))
			return DROP;
		if (get16(p + ETH_SOURCE) == source)
			return drop(CHECKSUM);
	}
	put_mac(p + ETH_SOURCE, settings.mac);
	skb->mark = HANDLED;
	return bpf_redirect(settings.uplink, 0);
}

/* A group hears it as it is within the host, and translated in the air. */
static __always_inline void host_hears(struct __sk_buff *skb)
{
	skb->mark = HANDLED;
	bpf_clone_redirect(skb, settings.uplink, BPF_F_INGRESS);
}

static __always_inline int is_dhcpv6_answer(struct __sk_buff *skb, __u32 udp)
{
	__u16 port;

	return !bpf_skb_load_bytes(skb, udp + 2, &port, sizeof(port)) && port == be16(DHCPV6_CLIENT);
}

/*
 * A router's word, or a DHCP server's to its client. A guest's the host does not
 * hear: it would become its router, or give it an address.
 */
static __noinline int is_of_server(struct __sk_buff *skb, const struct discovery *found)
{
	__u8 kind;

	if (found->message)
		return !bpf_skb_load_bytes(skb, found->message, &kind, 1) &&
		       (kind == ROUTER_ADVERTISEMENT || kind == REDIRECT);
	return found->protocol == UDP && is_dhcpv6_answer(skb, found->payload);
}

static __noinline int arp_from_guest(struct __sk_buff *skb, mac_t to, mac_t from)
{
	mac_t own = settings.mac, sender;
	struct address address;
	struct guest *guest;
	struct arp arp;

	if (read_arp(skb, &arp) || is_group(arp.sender_mac))
		return drop(ARP);
	sender = mac_in_arp(arp.sender_mac);
	if (sender == own || !sender)
		return drop(ARP);
	if (!arp_sender(&arp)) {
		/* A probe asks; nobody answers as nobody. */
		if (arp.operation != be16(ARP_REQUEST))
			return drop(ARP);
		*prober_place(from) = from;
	} else {
		address = ipv4_address(arp_sender(&arp));
		/* A port can be held to the frame's source, and not to this. */
		if (sender != from && bpf_map_lookup_elem(&pins, &address))
			return drop(PINNED);
		if (claim(&address, sender, skb->ingress_ifindex))
			return DROP;
	}
	address = ipv4_address(arp_target(&arp));
	if (to == own)
		return inward(skb, &address, from);
	if (to & 1)
		host_hears(skb);
	guest = bpf_map_lookup_elem(&guests, &address);
	if (mac_in_arp(arp.target_mac) == sender ||
	    (guest && mac_in_arp(arp.target_mac) == guest->mac))
		if (write_mac(skb, ARP_TARGET_MAC, own))
			return DROP;
	if (write_mac(skb, ARP_SENDER_MAC, own))
		return DROP;
	return outward(skb, 1);
}

/* What is not plain unicast data to the air. */
static __noinline int ipv4_from_guest(struct __sk_buff *skb, mac_t to, mac_t from)
{
	/* Neither host nor air hear what is another's. */
	if (settings.dhcp_chaddr && note_dhcp(skb, from, skb->ingress_ifindex))
		return drop(TRANSACTION);
	if (to & 1) {
		if (find_udp(skb, DHCP_CLIENT))
			count(SERVER);
		else
			host_hears(skb);
	}
	if (translate_dhcp(skb, from))
		return DROP;
	return outward(skb, 0);
}

static __noinline int icmpv6_from_guest(struct __sk_buff *skb, mac_t to, mac_t from)
{
	mac_t own = settings.mac;
	struct discovery *found;
	struct address address;
	__u32 only = 0;
	int of_server;
	__u8 *p;

	found = bpf_map_lookup_elem(&under_way, &only);
	if (!found || discover(skb, from, found))
		return DROP;
	of_server = is_of_server(skb, found);
	if (to == own) {
		if (of_server)
			return drop(SERVER);
		p = start_of(skb);
		if (p + IPV6_PAYLOAD > end_of(skb))
			return DROP;
		address = ipv6_address(p + IPV6_DESTINATION);
		return inward(skb, &address, from);
	}
	if (of_server && to & 1)
		count(SERVER);
	else if (to & 1)
		host_hears(skb);
	if (found->source && tell(skb, found->message, found->source, own))
		return DROP;
	if (found->target && tell(skb, found->message, found->target, own))
		return DROP;
	return outward(skb, !found->payload);
}

static __always_inline int air_out(struct __sk_buff *skb)
{
	mac_t own = settings.mac, from, to;
	struct address address;
	__u8 *p, *end;
	int of_server;

	if (unlikely(!settings.uplink))
		return DROP;
	pull(skb);
	p = start_of(skb);
	end = end_of(skb);
	if (p + ETH_HLEN > end)
		return drop(SHORT);
	if (unlikely(!skb->ingress_ifindex))
		return drop(NOBODY);
	/* The bridge does not know that guest, and floods. */
	if (unlikely(skb->mark == RETURNED))
		return drop(LOOP);
	from = mac_at(p + ETH_SOURCE);
	to = mac_at(p);
	if (unlikely(is_group(p + ETH_SOURCE) || !from || from == own))
		return drop(SOURCE);
	if (unlikely(skb->vlan_present))
		return drop(PROTOCOL);
	switch (get16(p + ETH_TYPE)) {
	case TYPE_IPV4:
		if (p + IPV4_PAYLOAD > end || p[IPV4_HEADER] >> 4 != 4 || (p[IPV4_HEADER] & 15) < 5)
			return drop(SHORT);
		/* None is what a client of DHCP has at first. */
		if (likely(get32(p + IPV4_SOURCE))) {
			address = ipv4_address(get32(p + IPV4_SOURCE));
			if (claim(&address, from, skb->ingress_ifindex))
				return DROP;
		}
		if (to == own) {
			address = ipv4_address(get32(p + IPV4_DESTINATION));
			if (unlikely(may_be_for_udp(p, end, DHCP_CLIENT)) && find_udp(skb, DHCP_CLIENT))
				return drop(SERVER);
			return inward(skb, &address, from);
		}
		if (unlikely(is_group(p) || may_be_for_udp(p, end, DHCP_SERVER)))
			return ipv4_from_guest(skb, to, from);
		return outward(skb, 0);
	case TYPE_IPV6:
		if (p + IPV6_PAYLOAD > end || p[IPV4_HEADER] >> 4 != 6)
			return drop(SHORT);
		address = ipv6_address(p + IPV6_SOURCE);
		/*
		 * None is what asks whether an address is free. The others of
		 * ::/32 nobody has; among them are those that IPv4's are kept as.
		 */
		if (likely(address.word[0])) {
			if (claim(&address, from, skb->ingress_ifindex))
				return DROP;
		} else if (address.word[1] | address.word[2] | address.word[3]) {
			return drop(ADDRESS);
		}
		if (likely(p[IPV6_NEXT] == 6 || p[IPV6_NEXT] == UDP)) {
			if (likely(to != own && !is_group(p)))
				return outward(skb, 0);
			address = ipv6_address(p + IPV6_DESTINATION);
			of_server = p[IPV6_NEXT] == UDP && is_dhcpv6_answer(skb, IPV6_PAYLOAD);
			if (to == own)
				return of_server ? drop(SERVER) : inward(skb, &address, from);
			if (of_server)
				count(SERVER);
			else
				host_hears(skb);
			return outward(skb, 0);
		}
		return icmpv6_from_guest(skb, to, from);
	case TYPE_ARP:
		return arp_from_guest(skb, to, from);
	}
	return drop(PROTOCOL);
}

#endif
