#!/bin/sh
# macnat.sh KIND: makes a host with a guest behind it, and the LAN, in
# namespaces KIND-host, KIND-guest and KIND-lan.
#
#   KIND-guest: eth0 192.0.2.50/24 2001:db8::50/64, on pa of the host
#   KIND-host:  uplink 192.0.2.21/24
#   KIND-lan:   lan0 192.0.2.1/24 2001:db8::1/64
#
#   plain       uplink and pa are ports of br0
#   macnat      pa and air0 are ports of br0; the programs are attached by who
#               calls this
#   nftables    the same by rules at the devices, written for this one guest
#   parprouted  the host routes between uplink and pa, and answers ARP for both
#
# It is run in the private mount namespace that scripts/bench made.
set -e
kind=$1 host=$1-host guest=$1-guest lan=$1-lan
uplink=02:00:00:00:00:21 a=52:54:00:00:00:0a gateway=02:00:00:00:01:01
for ns in $host $guest $lan; do
    if [ -e "/run/netns/$ns" ]; then ip netns del "$ns"; fi
    ip netns add "$ns"
    ip -n "$ns" link set lo up
done
ip -n $host link add uplink address $uplink type veth peer name lan0 address $gateway netns $lan
ip -n $host link add pa type veth peer name eth0 address $a netns $guest
ip -n $lan addr add 192.0.2.1/24 brd + dev lan0
ip -n $lan addr add 2001:db8::1/64 dev lan0 nodad
ip -n $guest addr add 192.0.2.50/24 brd + dev eth0
ip -n $guest addr add 2001:db8::50/64 dev eth0 nodad
ip -n $lan link set lan0 up
ip -n $guest link set eth0 up
ip -n $host link set pa up
ip -n $host link set uplink up
ip netns exec $host sysctl -qw net.ipv6.conf.default.disable_ipv6=1
# Where its module is loaded, bridge netfilter slows the bridge down.
ip netns exec $host sh -c 'for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done'
case $kind in
    plain)
        ip -n $host link add br0 type bridge
        ip -n $host link set uplink master br0
        ;;
    macnat | nftables)
        ip -n $host link add br0 type bridge
        ip -n $host link add air0 type veth peer name air1
        ip -n $host link set air1 up
        ip -n $host link set air0 master br0 up
        ip -n $host addr add 192.0.2.21/24 brd + dev uplink
        ;;
    parprouted)
        ip -n $host addr add 192.0.2.21/24 brd + dev uplink
        ip -n $host addr add 192.0.2.21/32 dev pa
        ip netns exec $host sysctl -qw net.ipv4.ip_forward=1
        ip netns exec $host parprouted uplink pa
        exit
        ;;
esac
ip -n $host link set pa master br0
ip -n $host link set br0 arp off up
if [ $kind = nftables ]; then
    ip netns exec $host nft -f - <<RULES
table netdev nat {
    chain out {
        type filter hook egress device air0 priority 0;
        arp operation request arp saddr ether set $uplink
        arp operation reply arp saddr ether set $uplink
        ether saddr set $uplink fwd to uplink
    }
    chain in {
        type filter hook ingress device uplink priority 0;
        arp operation reply arp daddr ip 192.0.2.50 arp daddr ether set $a ether daddr set $a fwd to pa
        arp operation request arp daddr ip 192.0.2.50 ether daddr set $a fwd to pa
        ip daddr 192.0.2.50 ether daddr set $a fwd to pa
        ip6 daddr 2001:db8::50 ether daddr set $a fwd to pa
    }
}
RULES
fi
