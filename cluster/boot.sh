#!/bin/bash
# First boot of a cloud machine, as root, before Ray comes: aws.yaml and gcp.yaml carry this text.
# 1. Local NVMe disks become one file system at /mnt/xmae, for spilled objects and copies of segments.
#    Without any the folder lies on the root disk.
mkdir -p /mnt/xmae
if systemctl cat dlami-nvme.service > /dev/null 2>&1; then systemctl start dlami-nvme.service; fi
mapfile -t disks < <(find /dev/disk/by-id \( -name 'nvme-Amazon_EC2_NVMe_Instance_Storage_*' \
  -o -name 'google-local-nvme-ssd-*' \) ! -name '*-part*' -exec readlink -f {} + 2> /dev/null | sort -u)
if mountpoint -q /opt/dlami/nvme; then
  mount --bind /opt/dlami/nvme /mnt/xmae
elif [ "${#disks[@]}" -gt 0 ]; then
  target=${disks[0]}
  if [ "${#disks[@]}" -gt 1 ]; then
    target=/dev/md/xmae
    mdadm --create "$target" --run --level=0 --raid-devices="${#disks[@]}" "${disks[@]}"
  fi
  mkfs.ext4 -q -E nodiscard "$target" && mount -o noatime "$target" /mnt/xmae
fi
mkdir -p /mnt/xmae/spill /mnt/xmae/segments && chown 1000:100 /mnt/xmae/spill /mnt/xmae/segments
# 2. A machine on which no raylet has run for 20 minutes switches itself off: nothing is paid for what a lost head,
#    a set-up that failed or a forgotten cluster left behind.
cat > /usr/local/sbin/xmae-guard << 'GUARD'
#!/bin/bash
missing=0
while sleep 60; do
  if pgrep -x raylet > /dev/null; then missing=0; else missing=$((missing + 1)); fi
  if [ "$missing" -ge 20 ]; then shutdown -h now; exit; fi
done
GUARD
chmod 755 /usr/local/sbin/xmae-guard
systemd-run --unit=xmae-guard /usr/local/sbin/xmae-guard
touch /run/xmae-booted
