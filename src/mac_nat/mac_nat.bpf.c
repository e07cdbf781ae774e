/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * MAC-NAT: the three programs. src/mac_nat/mod.rs has the picture.
 *
 * A frame of data costs one lookup. What is rare (ARP, neighbour discovery,
 * DHCP, multicast) is copied out, looked at and written back by helpers; the
 * other path reads and writes the frame where it lies.
 */
#include "bpf.h"
#include "state.h"
#include "learn.h"
#include "ipv4.h"
#include "ipv6.h"

char _license[] SEC("license") = "Dual MIT/GPL";

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

/* A checksum that is written later ends behind this: that of TCP or UDP does. */
#define IPV4_CHECKED (IPV4_PAYLOAD + 1)
#define IPV6_CHECKED (IPV6_PAYLOAD + 1)

#define TYPE_ARP be16(0x0806)
#define TYPE_IPV4 be16(0x0800)
#define TYPE_IPV6 be16(0x86dd)

/* The group that an IP address means, else 0: what a frame's destination was. */
static __always_inline mac_t ipv4_group(__u32 to)
{
	struct address address = ipv4_address(to);
	__u32 *kind;

	if (to == 0xffffffff)
		return 0xffffffffffff;
	if ((to & 0xf0) == 0xe0) /* 01:00:5e and 23 bits, RFC 1112 */
		return 0x5e0001 | (mac_t)(to >> 8 & 0xffff7f) << 24;
	if ((to >> 24 & 3) != 3)
		return 0;
	/* A prefix's broadcast address has two bits at least. */
	kind = bpf_map_lookup_elem(&protected, &address);
	return kind && *kind == BROADCAST ? 0xffffffffffff : 0;
}

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

/* ---- To a guest ------------------------------------------------------- */

/*
 * Hands a frame to the guest that an address is of: straight to its port, or
 * through the bridge where that has not heard of the sender for a while.
 */
static __always_inline int hand_over(struct guest *guest, mac_t from)
{
	__u64 now = from | bpf_jiffies64() >> settings.epoch << 48;
	__u64 *heard = &guest->peers[from >> 40 & (PEERS - 1)];

	if (likely(*heard == now))
		return bpf_redirect(guest->port, 0);
	*heard = now;
	return bpf_redirect(settings.air, BPF_F_INGRESS);
}

static __always_inline int deliver(struct __sk_buff *skb, struct guest *guest)
{
	__u8 *p = start_of(skb);

	if (p + ETH_HLEN > end_of(skb))
		return DROP;
	put_mac(p, guest->mac);
	return hand_over(guest, mac_at(p + ETH_SOURCE));
}

/*
 * The same by a helper. A program that writes where the frame lies has a frame
 * of TCP, which is a clone, made its own before anything else; and most of what
 * uplink_out sees it lets pass.
 */
static __always_inline int deliver_by_helper(struct __sk_buff *skb, struct guest *guest, mac_t from)
{
	return write_mac(skb, 0, guest->mac) ? DROP : hand_over(guest, from);
}

/* All guests hear it, whoever else does. */
static __always_inline void flood(struct __sk_buff *skb)
{
	bpf_clone_redirect(skb, settings.air, BPF_F_INGRESS);
}

/* The same for a frame that is addressed to one, and goes there, too. */
static __noinline int flood_as(struct __sk_buff *skb, mac_t group)
{
	mac_t to;

	if (!bpf_skb_load_bytes(skb, 0, &to, sizeof(to)) && !write_mac(skb, 0, group)) {
		flood(skb);
		write_mac(skb, 0, to);
	}
	return NEXT;
}

/*
 * To the guest whose address is asked for or told, if it is that guest's MAC
 * to which the host sends, or if it came to the uplink's.
 */
static __noinline int arp_to_guests(struct __sk_buff *skb, mac_t to, mac_t from)
{
	mac_t own = settings.mac;
	struct address address;
	struct guest *guest;
	struct arp arp;
	__u32 target;

	if (read_arp(skb, &arp))
		return NEXT;
	if (from != own) {
		address = ipv4_address(arp_sender(&arp));
		note_gateway(&address, from);
	}
	target = arp_target(&arp);
	/* What is forwarded has come in by a device. */
	if (from == own && !skb->ingress_ifindex) {
		address = ipv4_address(arp_sender(&arp) ? arp_sender(&arp) : target);
		host_has(&address, !arp_sender(&arp));
	}
	if (to & 1) {
		flood(skb);
		return NEXT;
	}
	address = ipv4_address(target);
	guest = whose(&address);
	if (guest && (from != own || to == guest->mac)) {
		if (mac_in_arp(arp.target_mac) == own && write_mac(skb, ARP_TARGET_MAC, guest->mac))
			return DROP;
		return deliver_by_helper(skb, guest, from);
	}
	/* Somebody defends an address that a guest probed for (RFC 5227). */
	if (arp.operation == be16(ARP_REPLY))
		return target ? NEXT : flood_as(skb, 0xffffffffffff);
	/*
	 * Somebody asks for an address by the MAC that he has for it: that of
	 * a guest that was not heard for long, or from outside the uplink's.
	 */
	if (bpf_map_lookup_elem(&protected, &address))
		return NEXT;
	return flood_as(skb, from == own ? to : 0xffffffffffff);
}

/* What the host says or asks of its own addresses (RFC 4861, 4862). */
static __noinline void note_host(struct __sk_buff *skb)
{
	__u8 addresses[16 + 16] __attribute__((aligned(8)));
	__u8 message[24] __attribute__((aligned(8)));
	struct address address;

	if (bpf_skb_load_bytes(skb, IPV6_SOURCE, addresses, sizeof(addresses)) ||
	    bpf_skb_load_bytes(skb, IPV6_PAYLOAD, message, sizeof(message)))
		return;
	if (message[0] == NEIGHBOUR_SOLICITATION && get64(addresses) | get64(addresses + 8))
		address = ipv6_address(addresses);
	else if (message[0] == NEIGHBOUR_SOLICITATION || message[0] == NEIGHBOUR_ADVERTISEMENT)
		address = ipv6_address(message + 8);
	else
		return;
	host_has(&address, message[0] == NEIGHBOUR_SOLICITATION && !(get64(addresses) | get64(addresses + 8)));
}

/* A server's answer to a guest whose MAC was replaced in its question. */
static __noinline int dhcp_to_guest(struct __sk_buff *skb)
{
	mac_t own = settings.mac;
	mac_t mac, to;
	int udp;

	mac = dhcp_client(skb, &udp);
	if (!mac || bpf_skb_load_bytes(skb, 0, &to, sizeof(to)))
		return 0;
	to &= 0xffffffffffff;
	if (edit_udp(skb, udp, udp + 8 + DHCP_CHADDR, own, mac, ETH_ALEN))
		return 0;
	if (to == own)
		write_mac(skb, 0, mac);
	flood(skb);
	write_mac(skb, 0, to);
	/* The host may be waiting for an answer with the same number. */
	edit_udp(skb, udp, udp + 8 + DHCP_CHADDR, mac, own, ETH_ALEN);
	return 1;
}

static __always_inline int uplink_in(struct __sk_buff *skb)
{
	struct address address;
	struct guest *guest;
	__u8 *p, *end;
	__u16 type;
	mac_t own = settings.mac, to, group;

	if (unlikely(!settings.uplink))
		return NEXT;
	if (skb->mark == HANDLED) {
		skb->mark = 0;
		return NEXT;
	}
	pull(skb);
	p = start_of(skb);
	end = end_of(skb);
	if (p + ETH_HLEN > end)
		return NEXT;
	if (unlikely(mac_at(p + ETH_SOURCE) == own))
		return drop(ECHO);
	type = get16(p + ETH_TYPE);
	if (skb->vlan_present || (type != TYPE_IPV4 && type != TYPE_IPV6 && type != TYPE_ARP))
		return NEXT;
	to = mac_at(p);
	if (to != own && !is_group(p))
		return NEXT;
	if (type == TYPE_ARP)
		return arp_to_guests(skb, to, mac_at(p + ETH_SOURCE));
	if (type == TYPE_IPV6 && p + IPV6_PAYLOAD <= end && p[IPV6_NEXT] == ICMPV6 && p[IPV6_LIMIT] == 255) {
		address = ipv6_address(p + IPV6_SOURCE);
		note_gateway(&address, mac_at(p + ETH_SOURCE));
	}
	if (to != own) {
		if (settings.dhcp_chaddr && type == TYPE_IPV4 && dhcp_to_guest(skb))
			return NEXT;
		flood(skb);
		return NEXT;
	}
	if (type == TYPE_IPV4) {
		if (p + IPV4_PAYLOAD > end)
			return NEXT;
		address = ipv4_address(get32(p + IPV4_DESTINATION));
	} else {
		if (p + IPV6_PAYLOAD > end)
			return NEXT;
		address = ipv6_address(p + IPV6_DESTINATION);
	}
	guest = whose(&address);
	if (guest)
		return deliver(skb, guest);
	/* To a group by our own MAC: an access point that makes unicast of it. */
	if (type == TYPE_IPV6) {
		if ((address.word[0] & 0xff) != 0xff)
			return NEXT;
		group = 0x3333 | (mac_t)address.word[3] << 16;
	} else {
		if (settings.dhcp_chaddr && dhcp_to_guest(skb))
			return NEXT;
		group = ipv4_group(address.word[3]);
		if (!group)
			return NEXT;
	}
	return flood_as(skb, group);
}

static __always_inline int uplink_out(struct __sk_buff *skb)
{
	struct address address;
	struct guest *guest;
	__u8 *p, *end, kind;
	__u16 type;

	if (unlikely(!settings.uplink))
		return NEXT;
	if (skb->mark == HANDLED) {
		skb->mark = 0;
		return NEXT;
	}
	pull(skb);
	p = start_of(skb);
	end = end_of(skb);
	if (p + ETH_HLEN > end || skb->vlan_present)
		return NEXT;
	type = get16(p + ETH_TYPE);
	if (type == TYPE_IPV4) {
		if (p + IPV4_PAYLOAD > end)
			return NEXT;
		if (settings.dhcp_chaddr && p[IPV4_PROTOCOL] == UDP) {
			note_dhcp(skb, settings.mac, 0);
			/* The verifier wants to see it again. */
			p = start_of(skb);
			end = end_of(skb);
			if (p + IPV4_PAYLOAD > end)
				return NEXT;
		}
		address = ipv4_address(get32(p + IPV4_DESTINATION));
	} else if (type == TYPE_IPV6) {
		if (p + IPV6_PAYLOAD > end)
			return NEXT;
		address = ipv6_address(p + IPV6_DESTINATION);
	} else if (type != TYPE_ARP) {
		return NEXT;
	}
	if (type == TYPE_ARP)
		return arp_to_guests(skb, mac_at(p), settings.mac);
	if (type == TYPE_IPV6 && p[IPV6_NEXT] == ICMPV6 && !skb->ingress_ifindex)
		note_host(skb);
	if (is_group(p)) {
		flood(skb);
		return NEXT;
	}
	/*
	 * By both: an address alone any guest can say it has, and what the host
	 * sends to it by its gateway is not for that guest.
	 */
	guest = whose(&address);
	if (guest && guest->mac == mac_at(p))
		return deliver_by_helper(skb, guest, mac_at(p + ETH_SOURCE));
	/* Is a guest still there that was not heard for long? */
	if (type == TYPE_IPV6 && p[IPV6_NEXT] == ICMPV6 &&
	    !bpf_skb_load_bytes(skb, IPV6_PAYLOAD, &kind, 1) && kind == NEIGHBOUR_SOLICITATION)
		flood(skb);
	return NEXT;
}

/* ---- From a guest ----------------------------------------------------- */

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

	if (likely(!guest || guest->mac == from || guest->mac == settings.mac || p + ETH_HLEN > end_of(skb)))
		return to_host(skb);
	put_mac(p, guest->mac);
	skb->mark = RETURNED;
	return bpf_redirect(skb->ingress_ifindex, BPF_F_INGRESS);
}

/*
 * To the air, as the uplink. A guest with a virtio header may have left a
 * checksum to be written later, behind all of this, at any place that it has
 * said: that must be behind the first `checked` bytes, or with 0 there must be
 * none. The kernel does not tell a program of it, but:
 *
 * - bpf_l4_csum_replace leaves such a frame as it is, and any other gets a
 *   source that is overwritten at once;
 * - bpf_skb_change_tail makes no frame shorter than up to the end of what will
 *   be written (__bpf_skb_min_len in net/core/filter.c).
 */
static __always_inline int outward(struct __sk_buff *skb, __u32 checked)
{
	__u8 *p = start_of(skb);
	__u16 source;

	if (p + ETH_HLEN > end_of(skb))
		return DROP;
	source = get16(p + ETH_SOURCE);
	if (bpf_l4_csum_replace(skb, ETH_SOURCE, 0, 1, 0))
		return DROP;
	p = start_of(skb);
	if (p + ETH_HLEN > end_of(skb))
		return DROP;
	if (get16(p + ETH_SOURCE) == source) {
		if (!checked || !bpf_skb_change_tail(skb, checked, 0))
			return drop(CHECKSUM);
		p = start_of(skb);
		if (p + ETH_HLEN > end_of(skb))
			return DROP;
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
	} else {
		address = ipv4_address(arp_sender(&arp));
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
	return outward(skb, 0);
}

/* What is not plain unicast data to the air. */
static __noinline int ipv4_from_guest(struct __sk_buff *skb, mac_t to, mac_t from)
{
	/* Neither host nor air hear what is another's. */
	if (settings.dhcp_chaddr && note_dhcp(skb, from, skb->ingress_ifindex))
		return drop(TRANSACTION);
	if (to & 1)
		host_hears(skb);
	if (translate_dhcp(skb, from))
		return DROP;
	return outward(skb, IPV4_CHECKED);
}

static __noinline int icmpv6_from_guest(struct __sk_buff *skb, mac_t to, mac_t from)
{
	mac_t own = settings.mac;
	struct discovery *found;
	struct address address;
	__u32 only = 0;
	__u8 *p;

	found = bpf_map_lookup_elem(&under_way, &only);
	if (!found || discover(skb, from, found))
		return DROP;
	if (to == own) {
		p = start_of(skb);
		if (p + IPV6_PAYLOAD > end_of(skb))
			return DROP;
		address = ipv6_address(p + IPV6_DESTINATION);
		return inward(skb, &address, from);
	}
	if (to & 1)
		host_hears(skb);
	if (found->source && tell(skb, found->message, found->source, own))
		return DROP;
	if (found->target && tell(skb, found->message, found->target, own))
		return DROP;
	return outward(skb, found->payload ? found->payload + 1 : 0);
}

static __always_inline int air_out(struct __sk_buff *skb)
{
	mac_t own = settings.mac, from, to;
	struct address address;
	__u8 *p, *end;

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
			return inward(skb, &address, from);
		}
		/* With IPv4 options, or at the port of DHCP: looked at closely. */
		if (unlikely(is_group(p) ||
			     (p[IPV4_PROTOCOL] == UDP &&
			      (p[IPV4_HEADER] != 0x45 || p + IPV4_PAYLOAD + 4 > end ||
			       get16(p + IPV4_PAYLOAD + 2) == be16(DHCP_SERVER)))))
			return ipv4_from_guest(skb, to, from);
		return outward(skb, IPV4_CHECKED);
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
			if (to == own) {
				address = ipv6_address(p + IPV6_DESTINATION);
				return inward(skb, &address, from);
			}
			if (is_group(p))
				host_hears(skb);
			return outward(skb, IPV6_CHECKED);
		}
		return icmpv6_from_guest(skb, to, from);
	case TYPE_ARP:
		return arp_from_guest(skb, to, from);
	}
	return drop(PROTOCOL);
}

/* ---- The entries ------------------------------------------------------ */

SEC("classifier") int vmbr_air_out(struct __sk_buff *skb) { return air_out(skb); }
SEC("classifier") int vmbr_uplink_in(struct __sk_buff *skb) { return uplink_in(skb); }
SEC("classifier") int vmbr_uplink_out(struct __sk_buff *skb) { return uplink_out(skb); }
