#!/bin/sh
# Run by mmdebstrap when all packages are installed: finish.sh TREE KERNEL_PACKAGE. The kernel is unpacked and not
# installed, for that would make an initrd, which nodes do not need.
set -eu

chroot "$1" sh -eu -s "$2" <<'END'
cd /tmp
kernel=$(apt-cache depends "$1" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
apt-get -qq download "$kernel"
dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x -C / --keep-directory-symlink
rm linux-image-*.deb
mv /boot/vmlinuz-* /boot/vmlinuz
depmod "${kernel#linux-image-}"

python3 -m venv --without-pip /opt/roost/venv
site_packages=$(echo /opt/roost/venv/lib/python3*/site-packages)
echo /opt/roost/src >"$site_packages/roost.pth"

systemctl --quiet enable systemd-networkd systemd-network-generator
systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service
passwd --quiet --delete root
useradd --create-home --shell /bin/bash --groups kvm alice
rm -f /etc/hostname /etc/resolv.conf
echo '127.0.0.1 localhost' >/etc/hosts
: >/etc/machine-id
END
