#!/usr/bin/env bash
# Installs what Debian or Ubuntu has and vxland's build, demo and tests need. Does nothing where it is there already.
set -euo pipefail

packages=(
  python3-venv python3-dev gcc make          # to build
  iproute2 iputils-ping iperf3               # the demo
  ethtool util-linux                         # the tests in network namespaces
  etcd-server etcd-client openssl            # the tests of registries
)

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
