/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * MAC-NAT: the programs. src/mac_nat/mod.rs has the picture.
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
#include "frame.h"
#include "outward.h"

char _license[] SEC("license") = "Dual MIT/GPL";

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

/* ---- To a guest ------------------------------------------------------- */

/*
 * Hands a frame to the guest that an address is of: straight to its port, or
 * through the bridge where that has not heard of the sender for a while, or
 * knows better where the guest is.
 */
static __always_inline int hand_over(struct guest *guest, mac_t from)
{
	__u64 now = now_with(from);
	__u64 *heard = &guest->peers[from >> 40 & (PEERS - 1)];

	if (likely(*heard == now && !(guest->port & BY_BRIDGE)))
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
	if (arp.operation == be16(ARP_REPLY) && !target && from == own && *prober_place(to) == to)
		/* The host, to a guest: nobody's business in the air. */
		return write_mac(skb, 0, 0xffffffffffff) ? DROP : bpf_redirect(settings.air, BPF_F_INGRESS);
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

/* Of the uplink: not what was seen on its way already. */
static __always_inline int is_to_see(struct __sk_buff *skb)
{
	if (unlikely(!settings.uplink))
		return 0;
	if (skb->mark != HANDLED)
		return 1;
	skb->mark = 0;
	return 0;
}

static __always_inline int uplink_in(struct __sk_buff *skb)
{
	struct address address;
	struct guest *guest;
	__u8 *p, *end, kind;
	__u16 type;
	mac_t own = settings.mac, to, group;

	if (!is_to_see(skb))
		return NEXT;
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
		if ((address.word[0] & 0xff) != 0xff) {
			/* Is a guest there that was not heard for long? */
			if (p[IPV6_NEXT] != ICMPV6 || bpf_skb_load_bytes(skb, IPV6_PAYLOAD, &kind, 1) ||
			    kind != NEIGHBOUR_SOLICITATION || bpf_map_lookup_elem(&protected, &address))
				return NEXT;
			/* As RFC 4861 has it asked of all. */
			address.word[3] |= be32(0xff000000);
		}
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

	if (!is_to_see(skb))
		return NEXT;
	pull(skb);
	p = start_of(skb);
	end = end_of(skb);
	if (p + ETH_HLEN > end || skb->vlan_present)
		return NEXT;
	type = get16(p + ETH_TYPE);
	if (type == TYPE_IPV4) {
		if (p + IPV4_PAYLOAD > end)
			return NEXT;
		if (settings.dhcp_chaddr && may_be_for_udp(p, end, DHCP_SERVER)) {
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
	 * sends to it by its gateway is not for that guest, even if it has the
	 * gateway's MAC.
	 */
	guest = whose(&address);
	if (guest && guest->mac == mac_at(p) && where_is(&address) == ON_LINK)
		return deliver_by_helper(skb, guest, mac_at(p + ETH_SOURCE));
	/* A DHCP server's offer to who has no address yet. */
	if (type == TYPE_IPV4 && unlikely(may_be_for_udp(p, end, DHCP_CLIENT)) && find_udp(skb, DHCP_CLIENT))
		flood(skb);
	/* Is a guest still there that was not heard for long? */
	if (type == TYPE_IPV6 && p[IPV6_NEXT] == ICMPV6 &&
	    !bpf_skb_load_bytes(skb, IPV6_PAYLOAD, &kind, 1) && kind == NEIGHBOUR_SOLICITATION)
		flood(skb);
	return NEXT;
}

/* ---- The entries ------------------------------------------------------ */

SEC("classifier") int vmbr_air_out(struct __sk_buff *skb) { return air_out(skb); }
SEC("classifier") int vmbr_uplink_in(struct __sk_buff *skb) { return uplink_in(skb); }
/* Nobody reaches the host by the bridge itself, which has no address. */
SEC("classifier") int vmbr_bridge_in(struct __sk_buff *skb)
{
	(void)skb;
	return DROP;
}
SEC("classifier") int vmbr_uplink_out(struct __sk_buff *skb) { return uplink_out(skb); }
