#!/bin/sh
# lab.sh: makes anew the two namespaces in which everything is measured.
#
#   host: eth0 192.0.2.21/24 2001:db8::21/64, default routes through lan
#   lan:  lan0 192.0.2.1/24 2001:db8::1/64, the gateway; and 198.51.100.9,
#         2001:db8:ffff::9, the peer, which the host reaches by its default
#         routes only, as an administrator's SSH session would be
#
# It is run in the private mount namespace that scripts/bench made, so these
# names are seen by nobody else.
set -e
for ns in host lan; do
    if [ -e "/run/netns/$ns" ]; then ip netns del "$ns"; fi
    ip netns add "$ns"
    ip -n "$ns" link set lo up
done
ip -n host link add eth0 address 02:00:00:00:02:21 type veth peer name lan0 address 02:00:00:00:02:01 netns lan
# A host that has been up for longer than duplicate address detection takes.
ip netns exec host sysctl -qw net.ipv6.conf.eth0.accept_dad=0
ip netns exec lan sysctl -qw net.ipv6.conf.lan0.accept_dad=0
ip -n lan addr add 192.0.2.1/24 brd + dev lan0
ip -n lan addr add 2001:db8::1/64 dev lan0 nodad
ip -n lan addr add 198.51.100.9/32 dev lo
ip -n lan addr add 2001:db8:ffff::9/128 dev lo nodad
ip -n lan link set lan0 up
# The peer's connections start from its own addresses, not the gateway's.
ip -n lan route change 192.0.2.0/24 dev lan0 src 198.51.100.9
ip -n lan -6 route add 2001:db8::21/128 dev lan0 src 2001:db8:ffff::9
ip -n host addr add 192.0.2.21/24 brd + dev eth0
ip -n host addr add 2001:db8::21/64 dev eth0 nodad
ip -n host link set eth0 up
ip -n host route add default via 192.0.2.1
ip -n host -6 route add default via 2001:db8::1
# The kernel takes up to a second to say that a new link is up, and a bridge
# keeps a port shut until then: a real host's NIC has been up for long.
for end in host:eth0 lan:lan0; do
    tries=300
    until ip -n "${end%:*}" -o link show "${end#*:}" | grep -q 'state UP'; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "$end did not come up" >&2; exit 1; }
        sleep 0.01
    done
done
