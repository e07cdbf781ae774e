#!/bin/bash
# manager.sh start|up|down|stop: the same migration by NetworkManager, on a
# host whose NIC it manages by a profile with static addresses. Runs in the
# host's namespace (`ip netns exec`), on the private /run and /etc that
# inside.sh made.
#
#   start  D-Bus, NetworkManager, and its profile on eth0
#   up     activates the profile that makes eth0 a port of br0
#   down   activates eth0's own profile again
#   stop   ends both daemons
set -euo pipefail

profiles=/etc/NetworkManager/system-connections
manager_pid=/run/bench/manager.pid
bus_pid=/run/bench/bus.pid

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local tries=$(($1 * 100))
    shift
    until "$@" >/dev/null 2>&1; do
        ((tries-- > 0)) || { echo "timed out: $*" >&2; tail -n 5 /run/bench/manager.log >&2; return 1; }
        sleep 0.01
    done
}
address_on() {
    ip -4 -o addr show dev "$1" scope global | grep -q 192.0.2.21 &&
        ip -6 -o addr show dev "$1" scope global | grep -q 2001:db8::21
}
bus_answers() { dbus-send --system --dest=org.freedesktop.DBus --print-reply / org.freedesktop.DBus.ListNames; }

# The part of a profile that is the same on eth0 and on br0.
addresses='[ipv4]
method=manual
address1=192.0.2.21/24,192.0.2.1
[ipv6]
method=manual
address1=2001:db8::21/64,2001:db8::1'

start() {
    rm -rf /run/dbus /run/udev /run/NetworkManager "$profiles"
    mkdir -p /run/dbus /run/udev/data "$profiles" /var/lib/NetworkManager
    mount -t tmpfs tmpfs /var/lib/NetworkManager
    # Without udev's word that it has seen a device, NetworkManager leaves it
    # alone: br0 will be one of these numbers.
    touch /run/udev/control
    local index
    for index in {1..64}; do
        printf 'I:1\nE:ID_NET_NAME=x\nV:1\n' >"/run/udev/data/n$index"
    done
    cat >/etc/NetworkManager/NetworkManager.conf <<'END'
[main]
plugins=keyfile
dns=none
auth-polkit=false
END
    printf '%s\n' '[connection]' id=direct type=ethernet interface-name=eth0 "$addresses" >"$profiles/direct.nmconnection"
    printf '%s\n' '[connection]' id=bridge type=bridge interface-name=br0 autoconnect=false \
        '[bridge]' stp=false mac-address=02:00:00:00:02:21 "$addresses" >"$profiles/bridge.nmconnection"
    printf '%s\n' '[connection]' id=port type=ethernet interface-name=eth0 autoconnect=false \
        master=br0 slave-type=bridge >"$profiles/port.nmconnection"
    chmod 600 "$profiles"/*

    dbus-daemon --system --nofork --nopidfile </dev/null >/run/bench/bus.log 2>&1 &
    echo $! >"$bus_pid"
    wait_for 5 bus_answers
    NetworkManager --no-daemon </dev/null >/run/bench/manager.log 2>&1 &
    echo $! >"$manager_pid"
    wait_for 10 nmcli -t general status
    nmcli --wait 30 connection up direct
    wait_for 10 address_on eth0
}

case ${1:-} in
    start) start ;;
    up)
        nmcli --wait 30 connection up port
        wait_for 20 address_on br0
        ;;
    down)
        nmcli --wait 30 connection up direct
        wait_for 20 address_on eth0
        ;;
    stop)
        for file in "$manager_pid" "$bus_pid"; do
            [ -e "$file" ] || continue
            pid=$(<"$file")
            kill "$pid" 2>/dev/null || true
            while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
            rm -f "$file"
        done
        ;;
    *)
        echo "usage: $0 start|up|down|stop" >&2
        exit 2
        ;;
esac
