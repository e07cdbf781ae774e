/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which address is whose. */
#ifndef VMBR_LEARN_H
#define VMBR_LEARN_H

#include "state.h"

static const struct port no_addresses;

static __always_inline struct port *port_of(__u32 index)
{
	struct port *port = bpf_map_lookup_elem(&ports, &index);

	if (port)
		return port;
	bpf_map_update_elem(&ports, &index, &no_addresses, BPF_NOEXIST);
	return bpf_map_lookup_elem(&ports, &index);
}

/*
 * Counts on. Compilers of the kernel for other machines than x86-64 cannot make
 * an atomic that answers before Linux 5.18. There two processors may take one
 * place, and an address is left without: the table forgets it as the one that
 * was not used for longest.
 */
static __always_inline __u32 next_of(__u32 *counter)
{
#ifdef VMBR_ATOMIC
	return __sync_fetch_and_add(counter, 1);
#else
	return (*counter)++;
#endif
}

static __always_inline int is_same(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

/*
 * Gives an address a place among those of its port. The port's own oldest one
 * makes room: whatever a guest invents, it pushes out nobody else's.
 */
static __always_inline void take_place(const struct address *address, __u32 index)
{
	struct port *port = port_of(index);
	struct address *place;
	struct guest *oldest;

	if (!port)
		return;
	/* It may have been forgotten and come again. */
	for (int i = 0; i < RING; i++)
		if (is_same(&port->ring[i], address))
			return;
	place = &port->ring[next_of(&port->next) % RING];
	oldest = bpf_map_lookup_elem(&guests, place);
	/* One that has moved to another port has a place there. */
	if (oldest && (oldest->port & ~BY_BRIDGE) == index) {
		bpf_map_delete_elem(&guests, place);
		count(QUOTA);
	}
	*place = *address;
}

/* An address that a guest can have, told apart from those that none can. */
static __always_inline int is_usable(const struct address *address)
{
	if (!address->word[0] && !address->word[1] && address->word[2] == be32(0xffff)) {
		__u32 first = be32(address->word[3]) >> 24;

		return first && first != 127 && first < 224;
	}
	/* ::/32 has no stations: ::, ::1, embedded IPv4. */
	return address->word[0] && (be32(address->word[0]) >> 24) != 0xff;
}

/* Where the host's routes have an address; 0 where beyond a gateway. */
static __always_inline __u32 where_is(const struct address *address)
{
	struct prefix whole = { .length = 128, .address = *address };
	__u32 *where = bpf_map_lookup_elem(&prefixes, &whole);

	return where ? *where : 0;
}

/*
 * A guest says that an address is its own, or, with `asks`, whether it may
 * be. Last writer wins, once a second: a failover takes effect at once, and
 * two that quarrel cost a map entry no more.
 *
 * Returns 0 or DROP.
 */
static __noinline int learn(const struct address *address, mac_t mac, __u32 port, int asks)
{
	__u32 *taken = bpf_map_lookup_elem(&protected, address);
	mac_t *pin = bpf_map_lookup_elem(&pins, address);
	__u64 now = bpf_jiffies64();
	struct guest *guest;

	if (!is_usable(address) || (taken && *taken == BROADCAST))
		return drop(ADDRESS);
	if (mac == settings.mac)
		return drop(SOURCE);
	if (taken)
		return drop(CLAIM);
	if (pin && *pin != mac)
		return drop(PINNED);
	guest = bpf_map_lookup_elem(&guests, address);
	/* One that was here before is not it: somebody in the air says so. */
	if (is_gateway(mac) && !(guest && guest->mac == mac && (guest->port & ~BY_BRIDGE) == port))
		return drop(SOURCE);
	/* What the host has behind another device does not come to a guest. */
	if (where_is(address) == ELSEWHERE)
		return 0;
	if (!guest) {
		struct guest new = {
			.mac = mac,
			.port = port | (pin ? BY_BRIDGE : 0),
			.tick = now,
			.seen = bpf_ktime_get_boot_ns(),
			.moved = (__u32)now,
		};

		take_place(address, port);
		bpf_map_update_elem(&guests, address, &new, BPF_ANY);
		return 0;
	}
	if (guest->mac != mac || (guest->port & ~BY_BRIDGE) != port) {
		/* Who asks does not have it yet. */
		if (asks)
			return 0;
		if ((__u32)now - guest->moved < settings.second) {
			count(MOVE);
			return 0;
		}
		if ((guest->port & ~BY_BRIDGE) != port)
			take_place(address, port);
		guest->mac = mac;
		guest->port = port | (pin ? BY_BRIDGE : 0);
		guest->moved = (__u32)now;
	}
	guest->tick = now;
	guest->seen = bpf_ktime_get_boot_ns();
	return 0;
}

/* Heard so long ago at most; or just now, on another processor. */
static __always_inline int is_within(const struct guest *guest, __u64 jiffies)
{
	return (__s64)(bpf_jiffies64() - guest->tick) <= (__s64)jiffies;
}

/* The same for each frame: almost always it says what is known. */
static __always_inline int claim(const struct address *address, mac_t mac, __u32 port)
{
	struct guest *guest = bpf_map_lookup_elem(&guests, address);

	if (likely(guest && guest->mac == mac && (guest->port & ~BY_BRIDGE) == port &&
		   is_within(guest, settings.second)))
		return 0;
	return learn(address, mac, port, 0);
}

/* A frame from the air with this address has this MAC. */
static __always_inline void note_gateway(const struct address *address, mac_t mac)
{
	__u32 *kind = bpf_map_lookup_elem(&protected, address);

	if (kind && *kind == PROTECTED)
		*gateway_place(mac) = now_with(mac);
}

/* Whose an address is, if it was heard in time. */
static __always_inline struct guest *whose(const struct address *address)
{
	struct guest *guest = bpf_map_lookup_elem(&guests, address);

	if (guest && is_within(guest, settings.age))
		return guest;
	return 0;
}

/*
 * The host says that an address is its own, or, with `asks`, asks whether it
 * may be: guests hear that, too, and none may claim it now, before vmbr is told
 * of a new address. One that a guest has already is that guest's to defend.
 */
static __noinline void host_has(const struct address *address, int asks)
{
	__u32 kind = HOSTS;

	if (!is_usable(address) || (asks && (whose(address) || bpf_map_lookup_elem(&pins, address))))
		return;
	bpf_map_update_elem(&protected, address, &kind, BPF_NOEXIST);
	bpf_map_delete_elem(&guests, address);
}

#endif
