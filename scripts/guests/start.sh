# Run in the guest once its root file system is mounted: the rest of a normal boot, then the command.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
ip link set lo up
echo "guest: $(uname -r) is up after $(cut -d' ' -f1 /proc/uptime) s"
setsid sh /mnt/guest/command.sh < /dev/null > /mnt/guest/output 2>&1
echo $? > /mnt/guest/exit
cut -d' ' -f1 /proc/uptime > /mnt/guest/seconds
dmesg > /mnt/guest/dmesg
sync
/mnt/guest/busybox poweroff -f
