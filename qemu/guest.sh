#!/bin/sh
# Starts a guest on a bridge, as an ordinary user.
#
#   BRIDGE=br0 qemu/guest.sh -m 2G -drive if=virtio,file=disk.qcow2
#
# The arguments are QEMU's own. vmbr-helper makes the TAP, checks that this
# user may join BRIDGE (/etc/vmbr/acl.conf, else /etc/qemu/bridge.conf), and
# hands it to QEMU; it is gone when QEMU ends.
: "${BRIDGE:=br0}"
# In full: QEMU does not look the helper up in PATH.
: "${HELPER:=/usr/local/libexec/vmbr-helper}"
# Each guest on the network needs a MAC of its own: 52:54:00 and three bytes.
: "${MAC:=52:54:00:$(od -An -N3 -tx1 /dev/urandom | sed 's/^ //; s/ /:/g')}"

# The first accelerator that works is used.
exec qemu-system-x86_64 -accel kvm -accel tcg -cpu max \
    -netdev "tap,id=net0,br=$BRIDGE,helper=$HELPER" \
    -device "virtio-net-pci,netdev=net0,mac=$MAC" "$@"
