#!/usr/bin/env bash
# A Debian of another architecture: its headers for a cross compiler, its Python and libraries under qemu-user.
#   tools/foreign.sh arm64|armhf 3.11|3.13                make it in build/foreign if it is not there; print its folder
#   tools/foreign.sh arm64|armhf 3.11|3.13 COMMAND...     run COMMAND in it, in /src, which is the current folder
# The version is that of Python, which decides on the suite of Debian.
# Packages are unpacked, not configured, so no foreign program runs meanwhile. The kernel starts foreign programs by
# binfmt_misc. Nothing is registered for this machine: since Linux 6.7 each user namespace has a table of its own.
set -euo pipefail

arch=${1:?arm64 or armhf} version=${2:?3.11 or 3.13} root=$PWD/build/foreign/$1-$2
shift 2
case $version in
  3.11) suite=bookworm ;;
  3.13) suite=trixie ;;
  *) echo "$version: no stable Debian has this Python; they have 3.11 and 3.13" >&2; exit 2 ;;
esac
case $arch in
  arm64) qemu=/usr/bin/qemu-aarch64-static class='\x02' machine='\xb7' ;;
  armhf) qemu=/usr/bin/qemu-arm-static class='\x01' machine='\x28' ;;
  *) echo "$arch: no architecture that is known here; it is one of arm64, armhf" >&2; exit 2 ;;
esac

# The mirror of this machine's own packages, whatever its suite; Debian's default elsewhere.
mirror() {
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian //p' | head -n 1
}

if [ ! -e "$root" ]; then
  echo "unpacking Debian $suite for $arch" >&2
  rm -rf "$root.part" && mkdir -p "${root%/*}"
  mmdebstrap --quiet --variant=extract --architectures="$arch" --include=python3,libpython3-dev,coreutils,dash \
    "$suite" "$root.part" $(mirror) >&2
  mkdir -p "$root.part"/{dev,proc,src,sys,tmp}
  mv "$root.part" "$root"
fi
[ $# -gt 0 ] || { echo "$root"; exit; }

# The first bytes of an ELF program or library of this machine, and which of their bits count.
elf="\\x7fELF$class\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00$machine\\x00"
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
export root elf mask qemu arch
exec unshare --user --map-root-user --mount --pid --fork --kill-child bash -euc '
  if ! mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>/dev/null && [ ! -e /proc/sys/fs/binfmt_misc/"$(basename "${qemu%-static}")" ]; then
    echo "this kernel has no binfmt_misc for user namespaces (Linux 6.7): install qemu-user-static with binfmt-support" >&2
    exit 1
  fi
  printf %s ":vxland-$arch:M::$elf:$mask:$qemu:FP" >/proc/sys/fs/binfmt_misc/register
  mount --rbind /dev "$root/dev"
  mount -t proc none "$root/proc"
  mount --rbind "$PWD" "$root/src"
  cd "$root"
  exec env -i PATH=/usr/bin:/bin HOME=/tmp LC_ALL=C.UTF-8 "$(command -v chroot)" . sh -c "cd /src && exec \"\$@\"" sh "$@"' bash "$@"
