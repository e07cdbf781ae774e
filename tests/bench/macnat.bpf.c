/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * MAC-NAT's programs as BPF_PROG_TEST_RUN can repeat them: it shows a program
 * the same frame again and again, so what the last run wrote is put back first.
 * The empty program does that, too, and nothing else.
 */
#include "../../src/mac_nat/mac_nat.bpf.c"

struct again {
	mac_t to, from;
	/* The last two bytes of one address go round: `first`, `first + 1`, ... */
	__u32 at, first, mask, turn;
};

volatile struct again again SEC(".data.again");

static __always_inline int put_back(struct __sk_buff *skb)
{
	__u8 *p = start_of(skb);
	__u8 *last = p + (again.at & 63);

	if (p + ETH_HLEN > end_of(skb) || last + 2 > end_of(skb))
		return 1;
	put_mac(p, again.to);
	put_mac(p + ETH_SOURCE, again.from);
	put16(last, be16(again.first + (again.turn++ & again.mask)));
	skb->mark = 0;
	return 0;
}

SEC("classifier") int bench_empty(struct __sk_buff *skb) { return put_back(skb) ? DROP : NEXT; }
SEC("classifier") int bench_air_out(struct __sk_buff *skb) { return put_back(skb) ? DROP : air_out(skb); }
SEC("classifier") int bench_uplink_in(struct __sk_buff *skb) { return put_back(skb) ? DROP : uplink_in(skb); }
SEC("classifier") int bench_uplink_out(struct __sk_buff *skb) { return put_back(skb) ? DROP : uplink_out(skb); }
