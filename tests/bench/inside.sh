#!/bin/bash
# inside.sh BUILT SCRIPTS COMMAND...: the first process of the namespaces that
# scripts/bench made. Gives them what the contestants expect of a machine,
# then runs COMMAND. When it ends, however it ends, the kernel ends every
# process in here and drops every mount, namespace and device.
#
#   BUILT    directory of vmbr-helper and minimal
#   SCRIPTS  directory of this file
set -euo pipefail
built=$1 scripts=$2
shift 2
# The first process of a namespace gets no signal that it does not handle.
trap 'exit 130' INT
trap 'exit 143' TERM

ip link set lo up
# Of the machine's /run nothing is needed, and nothing may be touched.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/bench/bin

# As udev makes it: any user may open it. Some machines have no udev.
mknod -m 666 /run/bench/tun c 10 200
if [ ! -e /dev/net/tun ]; then
    mount -t tmpfs tmpfs /dev/net 2>/dev/null || { echo "bench: there is no /dev/net: modprobe tun" >&2; exit 1; }
    touch /dev/net/tun
fi
mount --bind /run/bench/tun /dev/net/tun

# Both helpers obey this list; vmbr's own, if there is one, is not for us.
cp -a /etc /run/bench/etc
mount --bind /run/bench/etc /etc
rm -rf /etc/vmbr
mkdir -p /etc/qemu
echo "allow br0" >/etc/qemu/bridge.conf
chmod 755 /etc/qemu
chmod 644 /etc/qemu/bridge.conf

# Each helper with the privilege it is installed with, the floor with vmbr's.
for helper in /usr/lib/qemu/qemu-bridge-helper /usr/libexec/qemu-bridge-helper; do
    if [ -e "$helper" ]; then install -m 4755 "$helper" /run/bench/bin/qemu-bridge-helper; break; fi
done
for helper in vmbr-helper minimal; do
    install -m 755 "$built/$helper" "/run/bench/bin/$helper"
    setcap cap_net_admin=p /run/bench/bin/$helper
done
# The floor raises nothing by itself: the kernel shall do it.
setcap cap_net_admin=ep /run/bench/bin/minimal

"$@" --scripts "$scripts"
