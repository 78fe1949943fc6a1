"""A flannel network as one tunnel for each family: names, MTUs and addresses."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from vxland.config import Settings
from vxland.model.errors import ConfigError
from vxland.node.plane_settings import planes_of
from vxland.registry.net_conf import NetConf

V4, V6 = ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")


def settings(**sections: object) -> Settings:
    """Return the settings of a node of a Kubernetes cluster."""
    return Settings.model_validate({"registry": {"kind": "kube"}, **sections})


def test_a_tunnel_for_each_family() -> None:
    """Each tunnel has the device name of flanneld, the cluster's VNI and port, and its family's addresses."""
    node = settings(
        underlay={
            "interface": "ens33",
            "address": "192.0.2.1",
            "public_address": "203.0.113.7",
            "address_v6": "2001:db8::1",
            "public_address_v6": "2001:db8::7",
            "source_ports": 4,
        },
        firewall={"masquerade": True},
    )
    both = planes_of(node, NetConf((V4, V6), vni=7, port=4789))
    assert list(both) == [4, 6]
    for version, network, device, address, public in (
        (4, V4, "flannel.7", "192.0.2.1", "203.0.113.7"),
        (6, V6, "flannel-v6.7", "2001:db8::1", "2001:db8::7"),
    ):
        plane = both[version]
        assert (plane.networks, plane.device) == ((network,), device)
        assert (plane.overlay.vni, plane.overlay.port, plane.overlay.mtu) == (7, 4789, None)
        assert (str(plane.underlay.address), str(plane.underlay.public_address)) == (address, public)
        assert (plane.underlay.address_v6, plane.underlay.public_address_v6) == (None, None)
        assert (plane.underlay.interface, plane.underlay.source_ports) == (("ens33",), 4)
        assert (plane.firewall, plane.registry) == (node.firewall, node.registry)


@pytest.mark.parametrize(("networks", "versions"), [((V4,), [4]), ((V6,), [6]), ((V4, V6), [4, 6])])
def test_only_enabled_families(networks: tuple[object, ...], versions: list[int]) -> None:
    """A node has no tunnel for a family that its cluster does not have."""
    assert list(planes_of(settings(), NetConf(networks))) == versions  # type: ignore[arg-type]  # networks of either version


@pytest.mark.parametrize(
    ("own", "cluster", "v4", "v6"),
    [(None, None, None, None), (None, 1500, 1450, 1430), (1400, None, 1400, 1400), (1400, 9000, 1400, 1400)],
)
def test_mtu(own: int | None, cluster: int | None, v4: int | None, v6: int | None) -> None:
    """The cluster's MTU is an underlay's, of which 50 or 70 is subtracted; the node's is the pods', and wins."""
    made = planes_of(settings(overlay={} if own is None else {"mtu": own}), NetConf((V4, V6), mtu=cluster))
    assert (made[4].overlay.mtu, made[6].overlay.mtu) == (v4, v6)
    if cluster is not None:
        assert made[6].overlay_mtu(cluster, 6) == v6


def test_an_mtu_too_small_for_ipv6() -> None:
    """An MTU below 1280 is refused with IPv6, and accepted for an IPv4 tunnel alone."""
    node = settings(overlay={"mtu": 1279})
    assert planes_of(node, NetConf((V4,)))[4].overlay.mtu == 1279
    with pytest.raises(ConfigError, match=r"overlay\.mtu: 1279: use 1280 or more"):
        planes_of(node, NetConf((V4, V6)))


def test_a_configured_mac_is_the_ipv4_devices() -> None:
    """The IPv6 device has another MAC: peers would take two devices with one MAC for one station."""
    made = planes_of(settings(overlay={"mac": "02:00:00:00:00:01"}), NetConf((V4, V6)))
    assert (str(made[4].overlay.mac), made[6].overlay.mac) == ("02:00:00:00:00:01", None)


@pytest.mark.parametrize(
    ("network", "most", "device"), [(V4, 9_999_999, "flannel.10000000"), (V6, 9_999, "flannel-v6.10000")]
)
def test_a_vni_too_long_for_a_device_name(network: object, most: int, device: str) -> None:
    """Device names have at most 15 characters, so the longest VNIs are refused."""
    assert len(planes_of(settings(), NetConf((network,), vni=most))) == 1  # type: ignore[arg-type]  # networks of either version
    with pytest.raises(ConfigError) as caught:
        planes_of(settings(), NetConf((network,), vni=most + 1))  # type: ignore[arg-type]  # networks of either version
    assert (caught.value.key, caught.value.value) == ("net-conf.json: Backend.VNI", most + 1)
    assert (
        caught.value.remedy == f"use {most} or less: the device would be {device}, and names have at most 15 characters"
    )
