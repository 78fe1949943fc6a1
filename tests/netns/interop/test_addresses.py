"""The address that the tunnel is bound to is removed; it returns, or another one replaces it.   lab.py: topology.

The cluster's part, with IPv4 and a lease in etcd, is in tests/netns/faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import ask_json
from .conftest import running
from .daemon import Gear, plain
from .lab import Family, Lab
from .ns import wait_until
from .traffic import ping

pytestmark = pytest.mark.netns

OTHER: dict[Family, str] = {4: "192.168.111.200", 6: "fd00:111::200"}
LENGTH: dict[Family, str] = {4: "24", 6: "64 nodad"}
both_underlays = pytest.mark.parametrize("underlay", [4, 6], ids=["over_ipv4", "over_ipv6"])


class LoneAddressLab(Lab):
    """A lab whose node a has one underlay address, which vxland chooses itself."""

    def build(self) -> None:
        """Build, and remove the address of the other family."""
        super().build()
        self.vxland.settings["underlay"] = {"interface": "e0"}
        other: Family = 6 if self.underlay == 4 else 4
        self.a.ns.ip(f"addr del {self.a.underlay[other]}/{LENGTH[other].split()[0]} dev e0")


@pytest.fixture
def named(underlay: Family, gear: Gear, tmp_path: Path, _able: None) -> Iterator[Lab]:
    """A lab whose settings name the address."""
    yield from running(Lab(tmp_path, gear, underlay=underlay).with_fast_path())


@pytest.fixture
def chosen(underlay: Family, tmp_path: Path, _able: None) -> Iterator[Lab]:
    """A lab whose settings name only the interface."""
    yield from running(LoneAddressLab(tmp_path, "compiled", underlay=underlay))


def not_ready(lab: Lab) -> str:
    """Return the reason why node a is not ready, from vxlandctl."""
    return str(ask_json(lab.vxland, "status")["not_ready"])


def ends_without_address(lab: Lab) -> bool:
    """Return whether the fast path has ended for want of the address, from which programs would go on to send."""
    return any(event["reason"] == "the underlay address is gone" for event in lab.vxland.events("fast_path_off"))


def reached(lab: Lab) -> None:
    """Assert that pings of both pods are answered, in both families of the overlay."""
    for near, far in ((lab.a, lab.b), (lab.b, lab.a)):
        for family in (4, 6):
            ping(near.pod_ns, far.pod[family])


@pytest.mark.parametrize("gear", ["compiled", "interpreted"])
@both_underlays
def test_a_named_address_is_waited_for(named: Lab) -> None:
    """It is removed with the interface (IPv6) or alone; no other address replaces it, and the same sockets continue."""
    lab, family = named, named.underlay
    pid, back = lab.vxland.pid, f"addr add {lab.a.vtep}/{LENGTH[family]} dev e0"
    reached(lab)
    if family == 6:
        lab.a.ns.batch("link set e0 down", "link set e0 up")  # this removes IPv6 addresses
    else:
        lab.a.ns.ip(f"addr del {lab.a.vtep}/24 dev e0")
    lab.a.ns.ip(f"addr add {OTHER[family]}/{LENGTH[family]} dev e0")
    gone = lab.vxland.wait_for("underlay_address_gone")
    assert (gone["address"], gone["interface"]) == (lab.a.vtep, "e0")
    assert not_ready(lab) == f"the underlay address {lab.a.vtep} is gone from e0"
    if family == 4:
        wait_until(lambda: ends_without_address(lab), "the programs let go", lab.vxland.said)
    assert lab.a.pod_ns.attempt("ping", "-c1", "-W1", lab.b.pod[4]).returncode
    lab.a.ns.ip(back)
    assert lab.vxland.wait_for("underlay_address_back")["address"] == lab.a.vtep
    wait_until(lambda: not not_ready(lab), "readiness", lab.vxland.said)
    reached(lab)
    assert lab.vxland.pid == pid


@both_underlays
def test_a_chosen_address_is_replaced(chosen: Lab) -> None:
    """Without an address the node waits; once there is another it ends, and the next start uses that one."""
    lab, family = chosen, chosen.underlay
    old, new = lab.a.vtep, OTHER[family]
    reached(lab)
    lab.a.ns.ip(f"addr del {old}/{LENGTH[family].split()[0]} dev e0")
    lab.vxland.wait_for("underlay_address_gone")
    lab.a.ns.ip(f"addr add {new}/{LENGTH[family]} dev e0")
    assert lab.vxland.wait() == 1
    last = plain(lab.vxland.said()).splitlines()[-1]
    assert last == (
        f"vxland: the underlay address {old} is gone from e0, and {new} of e0 is there; "
        "start vxland again: it takes that one and publishes it to its peers"
    )
    lab.vxland.start()
    assert lab.vxland.wait_for("devices_open")["address"] == new
    lab.a.vtep = new
    lab.kernel.add_peer(lab.a, lab.a.mac())  # as the peer's daemon does after the change
    reached(lab)


def followed(lab: Lab, interface: str, mtu: int) -> None:
    """Wait until status shows the interface, and flannel.1 and the pods' packets have its MTU."""

    def shown() -> bool:
        (plane,) = ask_json(lab.vxland, "status")["planes"]
        return (plane["underlay"]["interface"], plane["underlay"]["mtu"]) == (interface, mtu)

    wait_until(shown, f"{interface} with MTU {mtu}", lab.vxland.said)
    wait_until(
        lambda: lab.a.ns.ip_json("link show flannel.1")[0]["mtu"] == mtu - (50 if lab.underlay == 4 else 70),
        "flannel.1's MTU",
        lab.vxland.said,
    )


@both_underlays
def test_the_interface_is_renamed_and_replaced(chosen: Lab) -> None:
    """The interface was known by name: after a rename its MTU was not followed, and status showed `e0`.

    The settings have the old name, which another interface may get. Then the address moves to a new interface of the
    first name, with another index and MTU.
    """
    lab, family = chosen, chosen.underlay
    pid = lab.vxland.pid
    followed(lab, "e0", 1500)
    lab.a.ns.batch("link set e0 name ens7", "link add e0 type veth peer name e0p", "link set ens7 mtu 1400")
    followed(lab, "ens7", 1400)
    changed = lab.vxland.wait_for("underlay_interface_changed")
    assert (changed["device"], changed["interface"], changed["was"]) == ("flannel.1", "ens7", "e0")
    reached(lab)
    lab.a.ns.ip(f"addr del {lab.a.vtep}/{LENGTH[family].split()[0]} dev ens7")
    assert lab.vxland.wait_for("underlay_address_gone")["interface"] == "ens7"
    assert not_ready(lab) == f"the underlay address {lab.a.vtep} is gone from ens7"
    lab.a.ns.batch("link del e0", f"link add e0 mtu 1450 type veth peer name e1 netns {lab.b.ns.name}")
    lab.b.ns.batch("link add br0 type bridge", "link set br0 up", "link set e0 master br0", "link set e1 master br0 up")
    lab.b.ns.batch(f"addr del {lab.b.vtep}/{LENGTH[family].split()[0]} dev e0",
                   f"addr add {lab.b.vtep}/{LENGTH[family]} dev br0")  # fmt: skip
    lab.a.ns.batch("link set ens7 down", "link set e0 up", f"addr add {lab.a.vtep}/{LENGTH[family]} dev e0")
    lab.vxland.wait_for("underlay_address_back")
    followed(lab, "e0", 1450)
    reached(lab)
    assert lab.vxland.pid == pid


@both_underlays
def test_a_vip_is_added_and_removed(chosen: Lab) -> None:
    """A service's address next to one from DHCP or SLAAC became the VTEP, and vxland ended when it moved away."""
    lab, family = chosen, chosen.underlay
    vip = f"{OTHER[family]}/{32 if family == 4 else 128} dev e0"
    lab.vxland.stop()
    lab.a.ns.batch(
        f"addr del {lab.a.vtep}/{LENGTH[family].split()[0]} dev e0",
        f"addr add {lab.a.vtep}/{LENGTH[family]} dev e0 valid_lft 3600 preferred_lft 3600",
        f"addr add {vip}{' nodad' if family == 6 else ''}",
    )
    lab.vxland.start()
    assert lab.vxland.wait_for("devices_open")["address"] == lab.a.vtep
    reached(lab)
    lab.a.ns.ip(f"addr del {vip}")
    end = len(lab.vxland.events("underlay_address_gone"))
    reached(lab)
    assert ask_json(lab.vxland, "status")["not_ready"] == ""
    assert end == 0
