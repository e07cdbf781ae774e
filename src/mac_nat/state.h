/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs are told and what they keep. src/mac_nat/layout.rs has the
 * same layouts.
 */
#ifndef VMBR_STATE_H
#define VMBR_STATE_H

#include "bpf.h"

/* A MAC in the lower 48 bits: its first six bytes are those of the frame. */
typedef __u64 mac_t;

struct settings {
	__u32 uplink;	  /* 0: gone, maybe to another namespace; nothing is done */
	__u32 air;
	mac_t mac;	  /* W, the uplink's */
	__u64 second;	  /* jiffies of one */
	__u64 age;	  /* jiffies after which an address is forgotten */
	__u32 epoch;	  /* jiffies >> this: half a second to a second */
	__u32 dhcp_chaddr;
	__u64 build;	  /* of which object the programs are */
};

/* Global data is reached without a lookup. */
volatile struct settings settings SEC(".data.settings");

#define GATEWAYS 8

/*
 * MACs that answer in the air for protected addresses, each in the place that
 * its last bits say, with the epoch of when it did in the upper 16 bits. A guest
 * that took one would get what the host sends there.
 */
volatile __u64 gateways[GATEWAYS] SEC(".data.gateways");

/* MACs of guests that probed for an address, in the same way. */
volatile mac_t probers[GATEWAYS] SEC(".data.probers");

/* An IPv6 address, or an IPv4 one as ::ffff:192.0.2.1. */
struct address {
	__u32 word[4];
};

#define PEERS 4

/*
 * Of a guest's port: the address is its MAC's by the ACL. Where that MAC is, the
 * bridge is told by the helper, and no other port's frames change it.
 */
#define BY_BRIDGE 0x80000000

/* A cache line. */
struct guest {
	mac_t mac;
	__u32 port;	/* of the bridge, and BY_BRIDGE */
	__u32 moved;	/* jiffies: when it came to this MAC and port */
	__u64 tick;	/* jiffies: last heard, to a second */
	__u64 seen;	/* the same by CLOCK_BOOTTIME, for people */
	/*
	 * Who sent to it past the bridge: MAC, and in the upper 16 bits the
	 * epoch in which a frame of that MAC last went through the bridge.
	 * Without one now and then the bridge would forget which MACs are
	 * behind the air port, and flood what guests send there; or believe
	 * for long a guest that has sent by such a MAC.
	 */
	__u64 peers[PEERS];
};

#define RING 64
#define XIDS 16

/* The addresses and DHCP transactions of one port, the oldest next to go. */
struct port {
	__u32 next;
	__u32 next_xid;
	__u32 xids[XIDS];
	struct address ring[RING];
};

struct prefix {
	__u32 length;
	struct address address;
};

struct transaction {
	mac_t mac;
	__u32 port; /* 0: the host's */
	__u32 tick; /* jiffies: its last question */
};

/* src/mac_nat/layout.rs counts on these. */
_Static_assert(sizeof(struct settings) == 48, "settings");
_Static_assert(sizeof(struct guest) == 64, "guest");
_Static_assert(sizeof(struct port) == 1096, "port");

/* Of a prefix: of the uplink's link, or behind another device of the host. */
#define ON_LINK 1
#define ELSEWHERE 2

#define PROTECTED 1
#define BROADCAST 2 /* of the uplink's own prefixes */
#define HOSTS 3	    /* the host has just said that it has it, or asked */

MAP(guests, BPF_MAP_TYPE_LRU_HASH, 0, struct address, struct guest, 16384);
MAP(protected, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, struct address, __u32, 4096);
MAP(pins, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC, struct address, mac_t, 16384);
MAP(prefixes, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct prefix, __u32, 8192);
MAP(ports, BPF_MAP_TYPE_LRU_HASH, 0, __u32, struct port, 1024);
MAP(xids, BPF_MAP_TYPE_LRU_HASH, 0, __u32, struct transaction, 16384);

/* src/mac_nat/layout.rs has their names, in this order. */
enum reason {
	SOURCE,	     /* source MAC: a group's, none, the uplink's, or a gateway's */
	PROTOCOL,    /* neither ARP nor IPv4 nor IPv6, or with a VLAN tag */
	SHORT,	     /* ends before what it must hold */
	ARP,	     /* no ARP of Ethernet and IPv4 */
	ADDRESS,     /* from an address that nobody can have */
	CLAIM,	     /* claims an address of the host, a gateway, a name server */
	PINNED,	     /* claims another guest's address by the ACL */
	HEADERS,     /* extension headers without an end */
	DISCOVERY,   /* neighbour discovery that RFC 4861 and 6980 forbid */
	NOBODY,	     /* from the bridge itself */
	ECHO,	     /* our own frame, come back */
	TRANSACTION, /* DHCP with another's transaction id */
	LOOP,	     /* sent to another guest, and come to the air port instead */
	CHECKSUM,    /* of ARP or ICMPv6, left to the hardware */
	SERVER,	     /* to the host, from a router or a DHCP server */
	MOVE,	     /* not dropped: an address moved again within a second */
	QUOTA,	     /* not dropped: a port's oldest address made room */
	REASONS,
};

MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, 0, __u32, __u64, REASONS);

static __always_inline void count(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter)
		*counter += 1;
}

static __noinline int drop(__u32 reason)
{
	count(reason);
	return DROP;
}

static __always_inline mac_t mac_at(const __u8 *p)
{
	return (mac_t)get16(p + 4) << 32 | get32(p);
}

static __always_inline void put_mac(__u8 *p, mac_t mac)
{
	put32(p, (__u32)mac);
	put16(p + 4, (__u16)(mac >> 32));
}

/* A MAC, and when. */
static __always_inline __u64 now_with(mac_t mac)
{
	return mac | bpf_jiffies64() >> settings.epoch << 48;
}

/* For how many epochs who has answered as a gateway is taken for one. */
#define GATEWAY_EPOCHS 120

static __always_inline volatile __u64 *gateway_place(mac_t mac)
{
	return &gateways[mac >> 40 & (GATEWAYS - 1)];
}

static __always_inline int is_gateway(mac_t mac)
{
	__u64 heard = *gateway_place(mac);

	return (heard ^ mac) << 16 == 0 && (__u16)((now_with(0) >> 48) - (heard >> 48)) <= GATEWAY_EPOCHS;
}

static __always_inline volatile mac_t *prober_place(mac_t mac)
{
	return &probers[mac >> 40 & (GATEWAYS - 1)];
}

/* Of a MAC on the stack or in a frame: sent to more than one. */
static __always_inline int is_group(const __u8 *mac) { return mac[0] & 1; }

static __always_inline struct address ipv4_address(__u32 address)
{
	return (struct address){ { 0, 0, be32(0xffff), address } };
}

static __always_inline struct address ipv6_address(const __u8 *p)
{
	return (struct address){ { get32(p), get32(p + 4), get32(p + 8), get32(p + 12) } };
}

#endif
