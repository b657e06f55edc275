#!/bin/busybox sh
# The first process of a guest: mount the host's root under an overlay in memory, and go there.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order

options=trans=virtio,version=9p2000.L,msize=1048576,cache=loose
$b mount -t 9p -o "ro,$options" host /host || $b poweroff -f
$b mount -t tmpfs -o size=100% tmpfs /memory
$b mkdir -p /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root ||
    $b poweroff -f
$b mkdir -p /root/mnt/guest /root/lib/modules
$b mount -t 9p -o "$options" modules /root/lib/modules
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=none out /root/mnt/guest

# /mnt/guest/folders has a line for each virtio disk: the folder whose copy it is.
number=0
for disk in /sys/block/vd*; do
    [ -e "$disk" ] || break
    number=$((number + 1))
    folder=$($b sed -n "${number}p" /root/mnt/guest/folders)
    copy=/memory/$number
    $b mkdir -p "$copy/lower" "$copy/upper" "$copy/work" "/root$folder"
    $b mount -t squashfs -o ro "/dev/${disk##*/}" "$copy/lower"
    $b mount -t overlay \
        -o "lowerdir=$copy/lower,upperdir=$copy/upper,workdir=$copy/work" overlay "/root$folder"
done
for kind in proc sys dev; do $b mount --move "/$kind" "/root/$kind"; done
exec $b switch_root /root /bin/sh /mnt/guest/start.sh
