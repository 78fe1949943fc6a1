"""flanneld as other nodes and the kernel see it (reference: its vxlan backend and its etcd registry), on demand.

It makes the kernel's vxlan devices, writes its lease, and programs one neighbour, one FDB entry and one onlink route
for each lease of the others. The real flanneld follows a watch; here a test calls follow().
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Final

from tests.netns.interop.lab import PORT, Family
from tests.netns.interop.ns import Ns

from .store import Etcd

DEVICE: Final[dict[Family, str]] = {4: "flannel.1", 6: "flannel-v6.1"}
OVERHEAD: Final[dict[Family, int]] = {4: 50, 6: 70}
_ADDRESS: Final[dict[Family, str]] = {4: "PublicIP", 6: "PublicIPv6"}
_DATA: Final[dict[Family, str]] = {4: "BackendData", 6: "BackendV6Data"}
_VXLAN: Final = (  # flannel never sends noudpcsum, so the kernel computes checksums
    "ttl 0 tos 0 ageing 300 nolearning noproxy norsc nol2miss nol3miss noudp6zerocsumtx noudp6zerocsumrx"
)


def value(addresses: Mapping[Family, str], macs: Mapping[Family, str], backend: str = "vxlan") -> str:
    """Return a lease as Go writes flannel's LeaseAttrs."""
    fields: dict[str, object] = {"PublicIP": addresses[4], "PublicIPv6": addresses.get(6), "BackendType": backend}
    for family, mac in macs.items():
        fields[_DATA[family]] = {"VNI": 1, "VtepMAC": mac}
    return json.dumps(fields, separators=(",", ":"))


def key(subnets: Mapping[Family, str]) -> str:
    """Return the last part of a lease's key."""
    return "&".join(subnet.replace("/", "-") for _, subnet in sorted(subnets.items()))


def random_mac() -> str:
    """Return a MAC as flannel makes one: local bit set, multicast bit clear."""
    address = bytearray(secrets.token_bytes(6))
    address[0] = address[0] & 0xFE | 0x02
    return address.hex(":")


Peer = tuple[str, str, str]
"""A lease of one family: subnet, VTEP address, VTEP MAC."""


def peers(entries: Mapping[str, str], but: str = "") -> set[tuple[Family, Peer]]:
    """Return the peers with a vxlan backend among the entries under `subnets`, without the key `but`."""
    found: set[tuple[Family, Peer]] = set()
    for name, text in entries.items():
        fields = json.loads(text)
        if name != but and fields["BackendType"] == "vxlan":
            for family, subnet in zip(DEVICE, name.split("&"), strict=False):
                if mac := fields.get(_DATA[family], {}).get("VtepMAC"):
                    found.add((family, (subnet.replace("-", "/"), fields[_ADDRESS[family]], mac)))
    return found


class FakeFlanneld:
    """The daemon of the node in `ns`, whose e0 has `addresses`; with IPv6 if these include one."""

    def __init__(self, ns: Ns, etcd: Etcd, addresses: Mapping[Family, str]) -> None:
        self.addresses = dict(addresses)
        self.subnets: dict[Family, str] = {}
        self.macs: dict[Family, str] = {}
        self._ns = ns
        self._etcd = etcd
        self._known: set[tuple[Family, Peer]] = set()

    @property
    def name(self) -> str:
        """The last part of its key."""
        return key(self.subnets)

    @property
    def value(self) -> str:
        """Its lease."""
        return value(self.addresses, self.macs)

    def start(self, subnets: Mapping[Family, str]) -> None:
        """Make the devices, take the lease, and program all other leases."""
        self.subnets = dict(subnets)
        self.ensure_links()
        self.publish()
        self.follow()

    def ensure_links(self, mac: str | None = None) -> None:
        """Make the kernel's devices, with random MACs if none is given; remove other devices of these names."""
        self._known.clear()
        for family, address in self.addresses.items():
            device = DEVICE[family]
            if device in self._ns.links():
                self._ns.ip(f"link delete {device}")
            self.macs[family] = mac or random_mac()
            base, full = self.subnets[family].partition("/")[0], 32 if family == 4 else 128
            self._ns.batch(
                f"link add {device} address {self.macs[family]} mtu {1500 - OVERHEAD[family]} type vxlan id 1 dev e0 "
                f"local {address} dstport {PORT} {_VXLAN}",
                f"addr add {base}/{full} dev {device}{' nodad' if family == 6 else ''}",
                f"link set {device} up",
            )

    def publish(self) -> None:
        """Write the lease."""
        self._etcd.put(f"subnets/{self.name}", self.value)

    def leave(self) -> None:
        """Delete the lease."""
        self._etcd.delete(f"subnets/{self.name}")

    def follow(self) -> None:
        """Apply the store's contents: remove old entries first, then add new and changed ones."""
        now = peers(self._etcd.subnets(), self.name)
        for family, (subnet, address, mac) in self._known - now:
            device, base = DEVICE[family], subnet.partition("/")[0]
            self._ns.attempt("ip", "neigh", "del", base, "dev", device)
            self._ns.attempt("bridge", "fdb", "del", mac, "dev", device, "dst", address, "self")
            self._ns.attempt("ip", "route", "del", subnet, "via", base, "dev", device, "onlink")
        for family, (subnet, address, mac) in now - self._known:
            device, base = DEVICE[family], subnet.partition("/")[0]
            self._ns.ip(f"neigh replace {base} lladdr {mac} dev {device} nud permanent")
            self._ns.run("bridge", "fdb", "replace", mac, "dev", device, "dst", address, "self", "permanent")
            self._ns.ip(f"route replace {subnet} via {base} dev {device} onlink")
        self._known = now
