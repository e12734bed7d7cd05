#!/bin/sh
# Starts an NFS server in the guest: server.sh NAME NETWORK. It has a network of its own, so that it is another machine
# for the client: its address is NETWORK.2, the client's is NETWORK.1, on the interface NAME. What it exports lies in
# /run/servers/NAME, which is / for those who mount it; what is mounted there by anybody in the guest, it sees. The
# process that holds its namespaces is in /run/servers/NAME.pid.
set -eu
name=$1 network=$2
if [ "${3-}" != inside ]; then
	mkdir -p "/run/servers/$name"
	mount -t tmpfs -o size=900M,mode=755 tmpfs "/run/servers/$name"
	# Whoever started us waits until all who could print something have ended.
	unshare --net --mount --propagation slave sleep infinity >/dev/null 2>&1 &
	holder=$!
	echo $holder >"/run/servers/$name.pid"
	# Once it sleeps it has its namespaces.
	until read -r program <"/proc/$holder/comm" && [ "$program" = sleep ]; do sleep 0.02; done
	ip link add "$name" type veth peer name eth0 netns $holder
	ip addr add "$network.1/24" dev "$name"
	ip link set "$name" up
	exec nsenter --net --mount --target $holder sh "$0" "$name" "$network" inside
fi

ip link set lo up
ip addr add "$network.2/24" dev eth0
ip link set eth0 up
mount -t tmpfs tmpfs /var/lib/nfs
mkdir /var/lib/nfs/v4recovery
: >/var/lib/nfs/etab
: >/var/lib/nfs/rmtab
printf '[exports]\nrootdir=/run/servers/%s\n' "$name" >"/run/servers/$name.conf"
mount --bind "/run/servers/$name.conf" /etc/nfs.conf
mount -t nfsd nfsd /proc/fs/nfsd
rpc.mountd --port 20048
# The least that this kernel takes, so that a server that has begun anew is soon ready.
rpc.nfsd --lease-time 10 --grace-time 10 4
