#!/usr/bin/env bash
# Install the missing Debian or Ubuntu packages of one target of the Makefile.
#   tools/packages.sh [--list] build | demo | test | bench | programs | pages | fuzz | k8s | kubeadm | systemd | docker | wheels | deb
# --list prints the packages. Services of these packages are neither started nor enabled: tests start servers themselves.
set -euo pipefail

list=
if [ "${1:-}" = --list ]; then list=yes; shift; fi

demo=(iproute2 iputils-ping iperf3)
case "${1:-build}" in
  build) packages=(python3-venv python3-dev gcc make) ;;
  demo) packages=("${demo[@]}") ;;
  bench) packages=("${demo[@]}" ethtool libbpf1) ;;
  test)
    packages=(
      libbpf1                                    # the fast path
      "${demo[@]}" containernetworking-plugins   # the demo, with CNI plugins too
      ethtool util-linux iptables nftables tcpdump wireguard-go wireguard-tools   # the tests in network namespaces
      etcd-server etcd-client openssl xz-utils   # the demo over etcd, the tests of the registries
      prometheus                                 # the alert rules
    ) ;;
  pages)
    # Ubuntu has it only as a snap, which a package manager should not install; its tests are then skipped with the reason.
    grep -qx ID=debian /etc/os-release || exit 0
    packages=(chromium fonts-inter fonts-jetbrains-mono) ;;
  fuzz) packages=(clang) ;;
  programs) packages=(clang llvm gcc libbpf-dev libc6-dev linux-libc-dev) ;;
  k8s)
    packages=(
      containerd runc etcd-server                # the cluster's own
      containernetworking-plugins busybox-static # its pods
      iptables nftables libbpf1 iproute2 tcpdump openssl curl xz-utils
    )
    command -v kubectl >/dev/null || packages+=(kubernetes-client) ;;   # other kubectl packages conflict with it
  kubeadm)
    packages=(
      dpkg-dev golang-go golang-github-modern-go-reflect2-dev gcc libc6-dev   # kubeadm and kube-proxy, from source
      etcd-server conntrack busybox-static iptables nftables libbpf1          # what the images have
      mmdebstrap systemd-container iproute2 ethtool util-linux xz-utils       # the nodes
    ) ;;
  systemd) packages=(systemd-container debootstrap iproute2 iputils-ping iperf3 util-linux procps) ;;
  docker)
    packages=(docker.io slirp4netns mmdebstrap qemu-user-static iptables iproute2 util-linux tar)
    if ! command -v docker >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then
      packages+=(docker-cli)   # separate from docker.io since Debian 13
    fi ;;
  wheels)
    # Cross compilers, the Pythons of other architectures to build for, and what runs these.
    packages=(
      gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
      mmdebstrap qemu-user-static util-linux
    ) ;;
  deb) packages=(binutils-x86-64-linux-gnu binutils-aarch64-linux-gnu dpkg lintian) ;;
  *) echo "$1: no target; it is one of build, demo, test, bench, programs, pages, fuzz, k8s, kubeadm, systemd, docker, wheels, deb" >&2; exit 2 ;;
esac
if [ -n "$list" ]; then printf '%s\n' "${packages[@]}"; exit; fi

installed() { dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^.i *//p' | sort -u; }

before=$(installed)
missing=()
for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$before" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "these packages are missing, and only root can install them: ${missing[*]}" >&2
  exit 1
fi

# Debian's packages start their services when installed, unless policy-rc.d forbids it (101).
policy=/usr/sbin/policy-rc.d aside=/usr/sbin/policy-rc.d.before-vxland
restore() { if [ -e $aside ]; then mv -f $aside $policy; elif grep -qs tools/packages.sh $policy; then rm -f $policy; fi; }
trap restore EXIT
restore   # after a killed run
if [ -e $policy ]; then mv $policy $aside; fi
printf '#!/bin/sh\n# Written by tools/packages.sh, which removes it; a killed run leaves it.\nexit 101\n' >$policy
chmod 755 $policy

echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends "${missing[@]}"

# Disables new services at boot too. `systemctl enable` or update-rc.d enables those that you want.
for package in $(comm -13 <(printf '%s\n' "$before") <(installed)); do
  for file in $(dpkg-query -L "$package" 2>/dev/null); do
    case $file in
      */systemd/system/*@.*) ;;
      /lib/systemd/system/*.service | /usr/lib/systemd/system/*.service | \
        /lib/systemd/system/*.socket | /usr/lib/systemd/system/*.socket | \
        /lib/systemd/system/*.timer | /usr/lib/systemd/system/*.timer)
        if command -v systemctl >/dev/null; then systemctl --quiet disable "${file##*/}" || :; fi ;;
      /etc/init.d/*)
        if command -v update-rc.d >/dev/null; then update-rc.d "${file##*/}" disable >/dev/null || :; fi ;;
    esac
  done
done
