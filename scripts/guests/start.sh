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
# As on a Debian system: beside the kernel, or beside its modules.
mkdir -p /boot
for config in /mnt/guest/config "/lib/modules/$(uname -r)/config"; do
    [ -e "$config" ] && cp "$config" "/boot/config-$(uname -r)"
done
echo "guest: $(uname -r) is up after $(cut -d' ' -f1 /proc/uptime) s"

# The watch: a sign of life for the host, and the end of a command that writes nothing for long, by
# the guest's clock. What it does then is in the results: processes, their stacks, blocked tasks.
watch() {
    size=-1 silent=0
    while sleep 10; do
        cut -d' ' -f1 /proc/uptime > /mnt/guest/alive
        now=$(wc -c < /mnt/guest/output)
        silent=$((silent + 10))
        [ "$now" = "$size" ] || silent=0
        size=$now
        [ "$silent" -lt "600" ] && continue
        echo "guest: the command has written nothing for $silent s of the guest, so it is ended"
        {
            ps -ef
            for stack in /proc/[0-9]*/stack; do echo "$stack"; cat "$stack"; done
        } > /mnt/guest/hung 2>&1
        echo w > /proc/sysrq-trigger
        end 124
    done
}

end() {
    cut -d' ' -f1 /proc/uptime > /mnt/guest/seconds
    dmesg > /mnt/guest/dmesg
    echo "$1" > /mnt/guest/exit # last: it says that all results are there
    sync
    /mnt/guest/busybox poweroff -f
}

: > /mnt/guest/output
watch &
setsid sh /mnt/guest/command.sh < /dev/null > /mnt/guest/output 2>&1
end $?
