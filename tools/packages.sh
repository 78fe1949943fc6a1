#!/usr/bin/env bash
# Installs what Debian or Ubuntu has and vxland's build, demo and tests need. Does nothing where it is there already.
#   tools/packages.sh        for all but the following       tools/packages.sh k8s    for `make test-k8s`
#   tools/packages.sh fuzz   for `make fuzz`
#   tools/packages.sh pages  to open pages in `make test`    tools/packages.sh systemd    for `make test-systemd`
#   tools/packages.sh docker     for `make test-docker`
set -euo pipefail

packages=(
  python3-venv python3-dev gcc make          # to build
  iproute2 iputils-ping iperf3               # the demo
  containernetworking-plugins                # the demo with CNI plugins
  ethtool util-linux iptables nftables tcpdump wireguard-go wireguard-tools   # the tests in network namespaces
  etcd-server etcd-client openssl xz-utils   # the demo over etcd, the tests of the registries
)
if [ "${1:-}" = k8s ]; then
  packages=(
    containerd runc etcd-server                # the cluster's own
    containernetworking-plugins busybox-static # its pods
    iptables nftables iproute2 tcpdump openssl curl xz-utils
  )
  command -v kubectl >/dev/null || packages+=(kubernetes-client)   # others package kubectl too, and clash with Debian's
fi
if [ "${1:-}" = pages ]; then
  # Ubuntu has it as a snap only, which a package manager should not drag in; its tests then skip and say so.
  grep -qx ID=debian /etc/os-release || exit 0
  packages=(chromium fonts-inter fonts-jetbrains-mono)
fi
if [ "${1:-}" = systemd ]; then
  packages=(systemd-container debootstrap iproute2 iputils-ping iperf3 util-linux procps)
fi
if [ "${1:-}" = docker ]; then
  packages=(docker.io slirp4netns debootstrap iptables iproute2 util-linux tar)
  if ! command -v docker >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then
    packages+=(docker-cli)   # apart from docker.io since Debian 13
  fi
fi
if [ "${1:-}" = fuzz ]; then
  packages=(clang)
fi

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "these packages are missing, and only root can install them: ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends "${missing[@]}"
