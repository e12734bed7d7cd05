#!/bin/sh
# Runs the rest of the tests in namespaces of their own: outside.sh PROGRAM …, as the first process in them. Whatever
# is left behind there goes with them.
set -eu
mount -t tmpfs tmpfs "$NFS_DIR"
# User Mode Linux keeps its memory, sockets and notes in these.
export TMPDIR="$NFS_DIR" HOME="$NFS_DIR"
ip link set lo up
ip tuntap add dev tap0 mode tap
ip addr add "$NFS_OUTSIDE/24" dev tap0
# The guest takes packets no longer than what goes over a wire: what is longer would be cut.
ip link set tap0 gso_max_segs 1 up
exec "$@"
