/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* ARP (RFC 826, 5227), IPv4, and DHCP (RFC 2131) within it. */
#ifndef VMBR_IPV4_H
#define VMBR_IPV4_H

#include "learn.h"

#define IPV4_HEADER 14	/* in the frame */
#define IPV4_FRAGMENT 20
#define IPV4_PROTOCOL 23
#define IPV4_SOURCE 26
#define IPV4_DESTINATION 30
#define IPV4_PAYLOAD 34 /* without options */

#define ARP_PACKET 14
#define ARP_SENDER_MAC 22
#define ARP_TARGET_MAC 32
#define ARP_REQUEST 1
#define ARP_REPLY 2

#define UDP 17
#define UDP_CHECKSUM 6
#define TRANSACTION_SECONDS 70
#define DHCP_SERVER 67
#define DHCP_CLIENT 68
#define DHCP_XID 4	/* in the message */
#define DHCP_FLAGS 10
#define DHCP_CHADDR 28

struct arp {
	__u16 hardware;
	__u16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__u16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed, aligned(4)));

static __always_inline __u32 arp_sender(const struct arp *arp)
{
	return (__u32)get16(arp->sender + 2) << 16 | get16(arp->sender);
}

static __always_inline __u32 arp_target(const struct arp *arp)
{
	return (__u32)get16(arp->target + 2) << 16 | get16(arp->target);
}

static __always_inline mac_t mac_in_arp(const __u8 *mac)
{
	return (mac_t)get16(mac + 4) << 32 | (__u32)get16(mac + 2) << 16 | get16(mac);
}

/* Takes an ARP packet out of its frame; not 0 where it is none. */
static __always_inline int read_arp(struct __sk_buff *skb, struct arp *arp)
{
	return bpf_skb_load_bytes(skb, ARP_PACKET, arp, sizeof(*arp)) || arp->hardware != be16(1) ||
	       arp->protocol != be16(0x0800) || arp->hardware_length != 6 || arp->protocol_length != 4 ||
	       (arp->operation != be16(ARP_REQUEST) && arp->operation != be16(ARP_REPLY));
}

/*
 * Whether a frame whose IPv4 header can be read may be for a UDP port: it is, or
 * it has IPv4 options, or ends before the ports. find_udp looks closely.
 */
static __always_inline int may_be_for_udp(const __u8 *p, const __u8 *end, __u16 port)
{
	return p[IPV4_PROTOCOL] == UDP &&
	       (p[IPV4_HEADER] != 0x45 || p + IPV4_PAYLOAD + 4 > end || get16(p + IPV4_PAYLOAD + 2) == be16(port));
}

/* Where the message is that a frame has for a UDP port; 0 where it has none. */
static __always_inline int find_udp(struct __sk_buff *skb, __u16 port)
{
	__u8 ip[20] __attribute__((aligned(4)));
	__u16 ports[2];
	int at;

	if (bpf_skb_load_bytes(skb, IPV4_HEADER, ip, sizeof(ip)) || ip[9] != UDP || get16(ip + 6) & be16(0x1fff))
		return 0;
	at = IPV4_HEADER + (ip[0] & 15) * 4;
	if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)) || ports[1] != be16(port))
		return 0;
	return at;
}

/*
 * Changes some bytes of a UDP message, and its checksum where there is one and
 * it is not left to the hardware.
 */
static __always_inline int edit_udp(struct __sk_buff *skb, __u32 udp, __u32 at, __u64 old, __u64 new,
				    __u32 length)
{
	__s64 change = bpf_csum_diff(&old, sizeof(old), &new, sizeof(new), 0);

	return change < 0 || bpf_l4_csum_replace(skb, udp + UDP_CHECKSUM, 0, change, BPF_F_MARK_MANGLED_0) ||
	       bpf_skb_store_bytes(skb, at, &new, length, 0);
}

/*
 * One transaction id is one client's: an answer tells nothing else when the
 * client's MAC in it is the uplink's. Not 0 where it is another's.
 */
static __noinline int take_xid(__u32 xid, mac_t mac, __u32 index)
{
	struct transaction *known = bpf_map_lookup_elem(&xids, &xid);
	__u32 now = (__u32)bpf_jiffies64();
	struct transaction new = { .mac = mac, .port = index, .tick = now };
	struct transaction *oldest;
	struct port *port;
	__u32 *place;

	if (known && known->mac == mac && known->port == index) {
		known->tick = now;
		return 0;
	}
	/* RFC 2131, 4.1: a client asks again after 64 seconds at most. */
	if (known && now - known->tick < TRANSACTION_SECONDS * settings.second)
		return 1;
	port = port_of(index);
	if (!port)
		return 1;
	place = &port->xids[next_of(&port->next_xid) % XIDS];
	oldest = bpf_map_lookup_elem(&xids, place);
	if (oldest && oldest->port == index)
		bpf_map_delete_elem(&xids, place);
	*place = xid;
	return bpf_map_update_elem(&xids, &xid, &new, known ? BPF_ANY : BPF_NOEXIST) != 0;
}

/*
 * A guest's or the host's message to a DHCP server: notes whose transaction it
 * is. Not 0 where it is another's.
 */
static __noinline int note_dhcp(struct __sk_buff *skb, mac_t mac, __u32 port)
{
	int udp = find_udp(skb, DHCP_SERVER);
	__u32 xid;

	if (!udp || bpf_skb_load_bytes(skb, udp + 8 + DHCP_XID, &xid, sizeof(xid)))
		return 0;
	return take_xid(xid, mac, port);
}

/*
 * A guest's message to a DHCP server goes to the air. The answer must come as
 * a broadcast: to the guest's MAC the access point would send none.
 * Returns 0 or DROP.
 */
static __noinline int translate_dhcp(struct __sk_buff *skb, mac_t mac)
{
	int udp = find_udp(skb, DHCP_SERVER);
	__u64 old = 0, new;
	__u16 flags;

	if (!udp)
		return 0;
	if (bpf_skb_load_bytes(skb, udp + 8 + DHCP_FLAGS, &flags, sizeof(flags)) ||
	    bpf_skb_load_bytes(skb, udp + 8 + DHCP_CHADDR, &old, 6))
		return drop(SHORT);
	/* In the host's name: to give its lease back, for instance. */
	if (old == settings.mac)
		return drop(CLAIM);
	if (!(flags & be16(0x8000)) && edit_udp(skb, udp, udp + 8 + DHCP_FLAGS, flags, flags | be16(0x8000), 2))
		return drop(SHORT);
	if (!settings.dhcp_chaddr || old != mac)
		return 0;
	new = settings.mac;
	return edit_udp(skb, udp, udp + 8 + DHCP_CHADDR, old, new, 6) ? drop(SHORT) : 0;
}

/*
 * With the client's MAC replaced: whose transaction a server's answer belongs
 * to; 0 if to no guest's. `udp` is where the message is.
 */
static __always_inline mac_t dhcp_client(struct __sk_buff *skb, int *udp)
{
	struct transaction *known;
	__u64 chaddr = 0;
	__u32 xid;

	*udp = find_udp(skb, DHCP_CLIENT);
	if (!*udp || bpf_skb_load_bytes(skb, *udp + 8 + DHCP_XID, &xid, sizeof(xid)) ||
	    bpf_skb_load_bytes(skb, *udp + 8 + DHCP_CHADDR, &chaddr, 6) || chaddr != settings.mac)
		return 0;
	known = bpf_map_lookup_elem(&xids, &xid);
	return known && known->port ? known->mac : 0;
}

#endif
