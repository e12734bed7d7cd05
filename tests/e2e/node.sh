#!/bin/sh
# Makes a Kubernetes node of the guest: node.sh FILES KUBECONFIG IMAGE …. FILES are this directory's, PROGRAMS is where
# containerd and the kubelet are. They run in the mount namespace that this is started in, and all that they write is in
# memory. Becomes the kubelet.
set -eu
files=$1 kubeconfig=$2
shift 2
node=/run/node
PATH=$node/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# The disk is slow to run programs from, and parts of it are hidden below.
mkdir -p $node/bin $node/cni $node/networks $node/images
cp "$PROGRAMS"/* "$(command -v runc)" $node/bin/
cp /usr/lib/cni/bridge /usr/lib/cni/host-local /usr/lib/cni/loopback $node/cni/
cp "$files/containerd.toml" "$files/kubelet.yaml" $node/
cp "$files/pods.conflist" $node/networks/
cp "$kubeconfig" $node/kubeconfig
cp "$@" $node/images/

modprobe --dirname /run/root --all overlay bridge
ip route add default via "$OUTSIDE"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /tmp
# The kubelet stops where the processor has no frequency, as here.
sed 's/^model name.*/&\ncpu MHz\t\t: 2000.000/' /proc/cpuinfo >$node/cpuinfo
mount --bind $node/cpuinfo /proc/cpuinfo
# What the kubelet mounts later on is seen by containers.
mount --make-rshared /

containerd --config $node/containerd.toml &
until ctr version >/dev/null 2>&1; do sleep 0.2; done
for image in $node/images/*; do
	ctr --namespace k8s.io images import "$image"
	rm "$image"
done
exec kubelet --config=$node/kubelet.yaml --kubeconfig=$node/kubeconfig --hostname-override=node-1 --node-ip="$GUEST"
