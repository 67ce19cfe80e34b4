#!/bin/sh
# Turns the namespaces that it was started in (network, mounts, processes) into a machine on which container engines
# run with their default paths, then becomes its init. See engine_host.py, which starts it.
# Usage: engine_host.sh DIRECTORY NAME NAME_SERVER
set -eu
directory=$1 name=$2 name_server=$3

# Without this, the copy of the mounts would hold other people's namespaces after `ip netns del`.
umount -R -l /run/netns 2>/dev/null || true

# /sys of this network namespace; of the control groups only a subtree of our own, in the places that engines know.
groups=$directory/groups
mkdir -p "$groups"
mount --rbind /sys/fs/cgroup "$groups"
umount -R -l /sys
mount -t sysfs sysfs /sys
if [ "$(stat -fc %T "$groups")" = cgroup2fs ]; then
    mkdir -p "$groups/$name"
    mount --bind "$groups/$name" /sys/fs/cgroup
    for group in "$groups" "$groups/$name"; do
        for controller in $(cat "$group/cgroup.controllers"); do
            echo "+$controller" > "$group/cgroup.subtree_control" || true
        done
    done
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for path in "$groups"/*; do
        controller=${path##*/}
        # crun refuses the hybrid form where controllers are in version 2.
        if [ ! -d "$path" ] || [ "$controller" = unified ]; then continue; fi
        mkdir -p "/sys/fs/cgroup/$controller" "$path/$name"
        if [ "$controller" = cpuset ]; then
            for file in cpus mems; do cat "$path/cpuset.$file" > "$path/$name/cpuset.$file"; done
        fi
        mount --bind "$path/$name" "/sys/fs/cgroup/$controller"
    done
fi
umount -R -l "$groups"

# What is written here stays here, be it a folder that a mount needs.
scratch=$directory/scratch
mkdir -p "$scratch"
mount -t tmpfs -o mode=755 tmpfs "$scratch"
for path in /etc /opt /var/lib; do
    mkdir -p "$scratch$path/upper" "$scratch$path/work"
    mount -t overlay -o "lowerdir=$path,upperdir=$scratch$path/upper,workdir=$scratch$path/work" overlay "$path"
done
for path in /run /dev/shm /var/lib/cni /var/lib/containerd /var/lib/docker /var/lib/containers /var/lib/weave \
    /etc/cni /etc/containers /etc/containerd /etc/docker /opt/cni; do
    mkdir -p "$path"
    mount -t tmpfs -o mode=755 tmpfs "$path"
done
mkdir -p /run/netns /run/docker/plugins /run/containerd /run/lock /etc/cni/net.d /opt/cni/bin
rm -f /etc/resolv.conf
echo "nameserver $name_server" > /etc/resolv.conf
exec "$(command -v docker-init || command -v tini)" -s -- sleep infinity
