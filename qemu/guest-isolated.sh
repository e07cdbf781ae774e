#!/bin/sh
# The same as guest.sh, but this guest cannot talk to other isolated guests of
# the bridge, only to the host and the network.
#
#   BRIDGE=br0 qemu/guest-isolated.sh -m 2G -drive if=virtio,file=disk.qcow2
: "${BRIDGE:=br0}"
: "${HELPER:=/usr/local/libexec/vmbr-helper}"
: "${MAC:=52:54:00:$(od -An -N3 -tx1 /dev/urandom | sed 's/^ //; s/ /:/g')}"

# With a space in it, QEMU has a shell run the helper, options and all.
exec qemu-system-x86_64 -accel kvm -accel tcg -cpu max \
    -netdev "tap,id=net0,br=$BRIDGE,helper=$HELPER --isolated" \
    -device "virtio-net-pci,netdev=net0,mac=$MAC" "$@"
