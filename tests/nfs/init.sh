#!/bin/sh
# The first process of the guest. Its root is this machine's, read-only; only $NFS_DIR can be written, and what is
# mounted here. Arguments: the test program, which becomes the agent.
#
# The guest's own network is a node's. Servers have namespaces of their own, see server.sh.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/nfs
mount -t hostfs -o "$NFS_DIR" none "$NFS_DIR"

# Servers see what is mounted here later on, see server.sh.
mount --make-rshared /

# modprobe looks for modules in lib/modules beneath a directory of our choice.
mkdir -p /run/root/lib
ln -s /usr/lib/uml/modules /run/root/lib/modules
modprobe --dirname /run/root --all loop ext4 xfs veth sch_netem nfs nfsv3 nfsv4 nfsd

# tap0 on the other end is the outside, where the control plane is.
ip link set lo up
ip addr add "$NFS_GUEST/24" dev vec0
ip link set vec0 up

# The disk is slow to run programs from.
mkdir -p /run/bin /run/mnt
[ -z "${NFS_PROVISIONER-}" ] || cp "$NFS_PROVISIONER" /run/bin/nfs-provisioner

# Servers of NFS v3 do not start without it. One does for all: they reach it at a path.
rpcbind -w
sh "$NFS_TESTS/server.sh" main 10.78.1
exec "$@"
