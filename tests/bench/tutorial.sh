#!/bin/sh
# tutorial.sh up|down: what tutorials tell one to type for a bridge, as one
# script of `ip` commands. It is kinder to itself than most: IPv6 is moved, too,
# and `nodad` spares it the second or two of duplicate address detection, and `down`
# deletes the bridge last, which takes the kernel 40 ms.
set -e
case $1 in
up)
    ip link add name br0 type bridge
    ip link set br0 up
    ip link set eth0 master br0
    ip addr del 192.0.2.21/24 dev eth0
    ip addr add 192.0.2.21/24 brd + dev br0
    ip route add default via 192.0.2.1 dev br0
    ip -6 addr del 2001:db8::21/64 dev eth0
    ip -6 addr add 2001:db8::21/64 dev br0 nodad
    ip -6 route replace default via 2001:db8::1 dev br0
    ;;
down)
    ip link set eth0 nomaster
    ip addr del 192.0.2.21/24 dev br0
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip route add default via 192.0.2.1 dev eth0
    ip -6 addr del 2001:db8::21/64 dev br0
    ip -6 addr add 2001:db8::21/64 dev eth0 nodad
    ip -6 route replace default via 2001:db8::1 dev eth0
    ip link del br0
    ;;
*)
    echo "usage: $0 up|down" >&2
    exit 2
    ;;
esac
