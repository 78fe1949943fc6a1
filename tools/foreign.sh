#!/usr/bin/env bash
# A Debian of another architecture or Python: its headers for a compiler, its Python and libraries to run.
#   tools/foreign.sh amd64|arm64|armhf 3.11|3.13|3.14                make it in build/foreign if it is not there; print its folder
#   tools/foreign.sh amd64|arm64|armhf 3.11|3.13|3.14 COMMAND...     run COMMAND in it, in /src, which is the current folder
# The version is that of Python, which decides on the suite of Debian. Beside glibc's headers it has those of musl.
# Packages are unpacked, not configured, so no foreign program runs meanwhile. The kernel starts foreign programs by
# binfmt_misc. Nothing is registered for this machine: since Linux 6.7 each user namespace has a table of its own.
set -euo pipefail

arch=${1:?amd64, arm64 or armhf} version=${2:?3.11, 3.13 or 3.14} root=$PWD/build/foreign/$1-$2 options=()
shift 2
case $version in
  3.11) suite=bookworm ;;
  3.13) suite=trixie ;;
  # Debian testing: a mirror may keep a state of it for longer than that is valid.
  3.14) suite=forky options=(--aptopt='Acquire::Check-Valid-Until "false"') ;;
  *) echo "$version: no Debian has this Python; they have 3.11, 3.13 and 3.14" >&2; exit 2 ;;
esac
case $arch in
  amd64) qemu=/usr/bin/qemu-x86_64-static class='\x02' machine='\x3e' ;;
  arm64) qemu=/usr/bin/qemu-aarch64-static class='\x02' machine='\xb7' ;;
  armhf) qemu=/usr/bin/qemu-arm-static class='\x01' machine='\x28' ;;
  *) echo "$arch: no architecture that is known here; it is one of amd64, arm64, armhf" >&2; exit 2 ;;
esac
[ "$arch" != "$(dpkg --print-architecture)" ] || qemu=

# The mirror of this machine's own packages, whatever its suite; Debian's default elsewhere.
mirror() {
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian //p' | head -n 1
}

if [ ! -e "$root/usr/share/doc/musl-dev" ]; then
  echo "unpacking Debian $suite for $arch" >&2
  rm -rf "$root" "$root.part" && mkdir -p "${root%/*}"
  mmdebstrap --quiet --variant=extract --architectures="$arch" "${options[@]}" \
    --include="python$version,libpython$version-dev,musl-dev,base-files,coreutils,dash" "$suite" "$root.part" $(mirror) >&2
  mkdir -p "$root.part"/{dev,proc,src,sys,tmp}
  mv "$root.part" "$root"
fi
[ $# -gt 0 ] || { echo "$root"; exit; }

# The first bytes of an ELF program or library of this machine, and which of their bits count.
elf="\\x7fELF$class\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00$machine\\x00"
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
export root elf mask qemu arch
exec unshare --user --map-root-user --mount --pid --fork --kill-child bash -euc '
  if [ "$qemu" ]; then
    if ! mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>/dev/null && [ ! -e /proc/sys/fs/binfmt_misc/"$(basename "${qemu%-static}")" ]; then
      echo "this kernel has no binfmt_misc for user namespaces (Linux 6.7): install qemu-user-static with binfmt-support" >&2
      exit 1
    fi
    printf %s ":vxland-$arch:M::$elf:$mask:$qemu:FP" >/proc/sys/fs/binfmt_misc/register
  fi
  mount --rbind /dev "$root/dev"
  mount -t proc none "$root/proc"
  mount --rbind "$PWD" "$root/src"
  cd "$root"
  exec env -i PATH=/usr/bin:/bin HOME=/tmp LC_ALL=C.UTF-8 "$(command -v chroot)" . sh -c "cd /src && exec \"\$@\"" sh "$@"' bash "$@"
